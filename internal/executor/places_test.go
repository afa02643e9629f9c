package executor

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

const someMounts = `27 1 254:0 / / rw - ext4 /dev/vda rw
40 27 0:24 / /run rw - tmpfs tmpfs rw
41 27 0:24 /docker.sock /opt/s rw - tmpfs tmpfs rw
42 27 254:0 /var/lib/docker /var/lib/docker rw shared:1 - ext4 /dev/vda rw
43 27 254:0 /var/lib/docker/volumes /mnt/with\040space rw - ext4 /dev/vda rw
44 27 0:24 / /mnt/run rw - tmpfs tmpfs rw
45 27 8:1 / /srv rw - ext4 /dev/sda1 rw
`

func TestPlaces(t *testing.T) {
	t.Parallel()
	mounts := parseMounts(someMounts)
	for _, c := range []struct {
		file string
		want []string
	}{
		{"/run/docker.sock", []string{"/run/docker.sock", "/opt/s", "/mnt/run/docker.sock"}},
		{"/opt/s", []string{"/opt/s", "/run/docker.sock", "/mnt/run/docker.sock"}},
		{"/var/lib/docker/volumes/x", []string{"/var/lib/docker/volumes/x", "/mnt/with space/x"}},
		{"/mnt/with space/x", []string{"/mnt/with space/x", "/var/lib/docker/volumes/x"}},
		{"/srv/x", []string{"/srv/x"}},
		{"/home/x", []string{"/home/x"}},
	} {
		got := places(mounts, c.file)
		slices.Sort(got)
		slices.Sort(c.want)
		if got = slices.Compact(got); !slices.Equal(got, c.want) {
			t.Errorf("%s is at %q, want %q", c.file, got, c.want)
		}
	}
}

func TestHolds(t *testing.T) {
	t.Parallel()
	mounts := parseMounts(someMounts)
	for _, c := range []struct {
		dir, file string
		want      bool
	}{
		{"/", "/run/docker.sock", true},
		{"/mnt", "/run/docker.sock", true},
		{"/opt", "/run/docker.sock", true},
		{"/mnt/with space", "/var/lib/docker", false},
		{"/var/lib", "/var/lib/docker", true},
		{"/srv", "/run/docker.sock", false},
		{"/run/docker", "/run/docker.sock", false},
	} {
		if got := holds(mounts, c.dir, c.file); got != c.want {
			t.Errorf("holds(%s, %s) = %t", c.dir, c.file, got)
		}
	}
	if !overlap(mounts, "/mnt/with space/x/_data", "/var/lib/docker") {
		t.Error("a bind mount of a folder of the Engine's is not seen")
	}
}

func TestResolved(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/real", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/real/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(dir+"/real/file", dir+"/hard"); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"/link": "/real", "/link/": "/real", "/link/not/there": "/real/not/there", "/link/../link/x": "/real/x", "/none": "/none",
	} {
		if got := resolved(dir + in); got != dir+want {
			t.Errorf("resolved(%s) = %s, want %s", in, got, want)
		}
	}
	if !sameFile(dir+"/hard", dir+"/link/file") || sameFile(dir+"/hard", dir+"/none") {
		t.Error("a hard link is not seen")
	}
}
