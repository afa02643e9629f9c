package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-ci/slipway/internal/job"
)

// smallDisk puts a folder of the rig's state on a disk of that size ("512k").
func smallDisk(t *testing.T, folder, size string) option {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small disk")
	}
	return func(r *rig) {
		dir := filepath.Join(r.stateDir(), folder)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("slipway-test", dir, "tmpfs", 0, "mode=0700,size="+size); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	}
}

const diskFull = "WARNING: The runner cannot store more of this job's log (no space left on device). The job goes on, but what it prints from here on is lost.\n"

// TestDiskFullInTheSpool: a job that prints more than the disk takes goes on, with what the runner says of it.
func TestDiskFullInTheSpool(t *testing.T) {
	t.Parallel()
	r := newRig(t, smallDisk(t, "jobs", "512k"))
	log := r.fails(job.ScriptFailure, 3, withAfter(spec(lines(20000), "exit 3"), "echo never seen"))
	once(t, log, diskFull)
	once(t, log, "Running after_script\n")
	lacks(t, log, "\nline 20000\n", "\nnever seen\n")
	numbered(t, log, strings.Count(log, "\nline "))
	r.logged("ERROR the job's log cannot be stored")
	log = r.must(job.Success, spec(lines(2000)))
	numbered(t, log, 2000)

	// Killed now, it still has room for the end.
	j := r.enqueue(spec(lines(20000), "sleep 300"))
	r.until(j, diskFull)
	r.kill()
	r.start()
	o, log := r.end(j)
	r.ended(o, "", job.SystemFailure, 0)
	once(t, log, why)
	numbered(t, log, strings.Count(log, "\nline "))
	numbered(t, r.must(job.Success, spec(lines(2000))), 2000)
}

// TestDiskFullAtStart: a job whose log cannot even begin is refused with the reason.
func TestDiskFullAtStart(t *testing.T) {
	t.Parallel()
	r := newRig(t, smallDisk(t, "jobs", "64k"))
	full := filepath.Join(r.stateDir(), "jobs", "filler")
	if err := os.WriteFile(full, make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	log := r.fails(job.SystemFailure, 0, spec("echo never"))
	wants(t, log, "ERROR: Job failed (system failure): open job log: ", "no space left on device")
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	r.must(job.Success, spec("true"))
}

// TestDiskFullOfTheJobsFiles: state, sources and logs are on one disk, and the job fills it.
func TestDiskFullOfTheJobsFiles(t *testing.T) {
	t.Parallel()
	r := newRig(t, smallDisk(t, "", "8m"))
	p := r.repository("group/demo", sample)
	fill := withAfter(p.spec("main", "dd if=/dev/zero of=file bs=1M count=20"), "rm file", "echo cleaned up")
	log := r.fails(job.ScriptFailure, 1, fill)
	wants(t, log, "No space left on device")
	log = r.must(job.Success, p.spec("main", lines(2000)))
	numbered(t, log, 2000)
}
