package cli

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/docker"
)

func TestOlderVersion(t *testing.T) {
	t.Parallel()
	for version, older := range map[string]bool{"20.10.24+dfsg1": true, "25.0.5": true, "25.0.6": false, "25.0.6-1": false, "26.0": false, "29.6.0-dev": false, "nonsense": true} {
		if olderVersion(version, fixedEngine) != older {
			t.Errorf("%s: %t", version, !older)
		}
	}
}

// TestDoctorJudgesTheEngine: what the Engine says of itself, and what becomes of it.
func TestDoctorJudgesTheEngine(t *testing.T) {
	t.Parallel()
	const (
		open   = "WARNING: API is accessible on http://0.0.0.0:2375 without encryption.\n         Access to the remote API is equivalent to root access on the host."
		noSwap = "WARNING: No swap limit support"
	)
	for name, c := range map[string]struct {
		version string
		machine docker.Machine
		want    []finding
	}{
		"well":    {"29.6.0", docker.Machine{StorageDriver: "overlay2", CgroupDriver: "systemd", Warnings: []string{noSwap}}, nil},
		"old":     {"24.0.7", docker.Machine{}, []finding{{warning, "the Engine at unix:///x is 24.0.7: known holes are closed since 25.0.6", "update it"}}},
		"vfs":     {"29.6.0", docker.Machine{StorageDriver: "vfs"}, []finding{{warning, "its storage driver is vfs", "overlay2"}}},
		"mapper":  {"29.6.0", docker.Machine{StorageDriver: "devicemapper"}, []finding{{warning, "its storage driver is devicemapper", "overlay2"}}},
		"cgroups": {"29.6.0", docker.Machine{CgroupDriver: "none"}, []finding{{warning, "it has no cgroups", "run the Engine as root"}}},
		"open":    {"29.6.0", docker.Machine{Warnings: []string{noSwap, open}}, []finding{{broken, "owns this machine: API is accessible on http://0.0.0.0:2375", `take that "hosts" out`}}},
	} {
		d := &doctor{}
		d.machine("unix:///x", c.version, c.machine)
		var bad []finding
		for _, f := range d.findings {
			if f.Level != fine {
				bad = append(bad, f)
			}
		}
		if len(bad) != len(c.want) {
			t.Errorf("%s: %+v", name, bad)
			continue
		}
		for i, f := range bad {
			if w := c.want[i]; f.Level != w.Level || !strings.Contains(f.What, w.What) || !strings.Contains(f.Cure, w.Cure) {
				t.Errorf("%s: %+v", name, f)
			}
		}
	}
}

// TestDoctorMeasuresDisks on file systems of the sizes where the answer changes. They are in memory, and take none.
func TestDoctorMeasuresDisks(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root mounts")
	}
	for size, c := range map[string]struct {
		want level
		what string
	}{
		"1048572k": {broken, "has 1.0 GiB left: jobs will fail"}, // a page less than 1 GiB
		"1g":       {warning, "has 1.0 GiB left"},
		"2560m":    {warning, "has 2.5 GiB left"},
		"11g":      {fine, "has 11.0 GiB left; slipway run keeps 0.5 GiB free (min_free)"},
	} {
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		d := &doctor{}
		d.space("the disk", dir, nil)
		if len(d.findings) != 1 || d.findings[0].Level != c.want || !strings.Contains(d.findings[0].What, "the disk ("+dir+") "+c.what) || (d.findings[0].Cure == "") != (c.want == fine) {
			t.Errorf("%s: %+v", size, d.findings)
		}
	}
	d := &doctor{}
	if d.space("the disk", t.TempDir()+"/nowhere", nil); len(d.findings) > 0 {
		t.Errorf("%+v", d.findings)
	}
}

// TestDoctorNamesWatchedFolders: each folder whose disk is kept from filling up, and each that is not and why.
func TestDoctorNamesWatchedFolders(t *testing.T) {
	t.Parallel()
	data, layers := t.TempDir(), t.TempDir()
	off := config.MachineLimits{MinFree: &config.MinFree{}}
	for name, c := range map[string]struct {
		machine docker.Machine
		limits  config.MachineLimits
		want    []finding
	}{
		"an Engine's own": {docker.Machine{DataRoot: data, LayersDir: data}, config.MachineLimits{}, []finding{{What: "the Engine's data (" + data + ") has "}}},
		"containerd's": {docker.Machine{DataRoot: data, LayersDir: layers, ArchivesDir: t.TempDir(), ContainerdImages: true}, config.MachineLimits{}, []finding{
			{What: "the Engine's data (" + data + ") has "}, {What: "the Engine's images and build cache (" + layers + ") has "},
		}},
		"unseen": {docker.Machine{DataRoot: data, LayersDir: "/nowhere/containerd", ContainerdImages: true}, config.MachineLimits{}, []finding{
			{What: "the Engine's data (" + data + ") has "},
			{warning, "the Engine's images and build cache: look at /nowhere/containerd: no such file or directory; nothing is removed when that disk gets full", "mount that folder at the same path"},
		}},
		"unknown": {docker.Machine{DataRoot: data, StorageDriver: "none", ContainerdImages: true, LayersUnknown: errors.New("permission denied")}, config.MachineLimits{BuildCache: 1 << 30}, []finding{
			{What: "the Engine's data (" + data + ") has "},
			{warning, "in a folder of its containerd that is not known, and nothing is removed when that disk gets full: permission denied", "set build_cache in [slipway.limits]"},
			{fine, "its build cache is kept within 1.0 GiB (build_cache)", ""},
		}},
		"off": {docker.Machine{DataRoot: data, StorageDriver: "none", ContainerdImages: true}, off, []finding{{What: "the Engine's data (" + data + ") has "}}},
	} {
		d := &doctor{}
		d.data(c.machine, c.limits)
		if len(d.findings) != len(c.want) {
			t.Errorf("%s: %+v", name, d.findings)
			continue
		}
		for i, f := range d.findings { // how full the disk of the test is does not matter
			if w := c.want[i]; w.Level != "" && f.Level != w.Level || !strings.Contains(f.What, w.What) || !strings.Contains(f.Cure, w.Cure) {
				t.Errorf("%s: %+v", name, f)
			}
		}
	}
}

// TestDoctorOnMappedUsers: what does not work with them, and for whom.
func TestDoctorOnMappedUsers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		machine docker.Machine
		root    bool
		want    finding
	}{
		{docker.Machine{}, false, finding{}},
		{docker.Machine{MapsUsers: true, FirstUser: 100000, FirstGroup: 100000}, true, finding{fine, "to 100000 and following: jobs' files are given to those", ""}},
		{docker.Machine{MapsUsers: true, FirstUser: 100000, FirstGroup: 100000}, false, finding{warning, "what jobs leave as such users, slipway cannot remove", "run slipway as root"}},
		{docker.Machine{MapsUsers: true}, true, finding{warning, "nobody knows whom the Engine maps the users of containers to", "use an Engine that runs as root"}},
	} {
		d := &doctor{}
		d.users(c.machine, c.root)
		var got finding
		if len(d.findings) > 0 {
			got = d.findings[0]
		}
		if got.Level != c.want.Level || !strings.Contains(got.What, c.want.What) || !strings.Contains(got.Cure, c.want.Cure) {
			t.Errorf("%+v: %+v", c.machine, d.findings)
		}
	}
}
