package executor

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/slipway-ci/slipway/internal/source"
)

// TestDeepStandIn: what a hook has put into the folder is removed, however deep it is, and takes no more of this process than other trees.
// Not parallel: the process may open few files meanwhile.
func TestDeepStandIn(t *testing.T) {
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	few := before
	few.Cur = 512
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &before) })
	state := t.TempDir()
	e := &Executor{Settings: Settings{StateDir: state}}
	for _, remove := range []func(si *standIns) error{
		func(si *standIns) error { return si.close(t.Context()) },
		func(*standIns) error { return SweepFolders(t.Context(), state) }, // it was killed
	} {
		si, err := e.newStandIns(&plan{}, &source.Workspace{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		deep, err := unix.Open(si.folders[0], unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		for i := 0; i < 3000 && err == nil; i++ {
			at := deep
			if err = unix.Mkdirat(at, "folder", 0o700); err == nil {
				deep, err = unix.Openat(at, "folder", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			}
			unix.Close(at)
		}
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(deep)
		if err := remove(si); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(standInsDir(state)); err != nil || len(left) > 0 {
			t.Errorf("%v is left, %v", left, err)
		}
	}
}
