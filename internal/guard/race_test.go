package guard

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCopyRace has a container exchange the place of its volume with a symlink to a folder of the machine while it is
// copied from. On the raw socket of an Engine before 29.5.1 that reaches the folder; through the guard it never does.
func TestCopyRace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if releaseAtLeast(r.engine.release, patchedCopy) {
		t.Skip("this Engine copies safely")
	}
	// Whatever the Engine makes of the volume's place in the machine's folder shows there.
	target := t.TempDir()
	t.Cleanup(func() { // the Engine does not find again what it mounted there
		for unix.Unmount(filepath.Join(target, "b"), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
		}
	})
	program := filepath.Join(t.TempDir(), "swap")
	buildStatic(t, "testdata/swap", program)
	id := r.own("swap", "--network", "none", "--volume", "/a/b", "--entrypoint", "sh", alpine, "-c",
		"ln -s "+target+" /link; exec /swap /a /link")
	r.docker("cp", program, "swap:/swap")
	r.docker("start", "swap")
	out := filepath.Join(t.TempDir(), "out")
	reached := func(host, name string) (after int) {
		for i := range 25 {
			_, _ = run(host, "", "cp", name+":/etc/passwd", out)
			if _, err := os.Lstat(filepath.Join(target, "b")); err == nil {
				return i + 1
			}
		}
		return 0
	}
	if n := reached("unix://"+r.Socket(), "swap"); n != 0 {
		t.Errorf("the machine's folder was reached by copy %d", n)
	}
	if info, err := os.Stat(out); err != nil || info.Size() == 0 {
		t.Errorf("nothing was copied: %v", err)
	}
	t.Logf("on the raw socket it is reached by copy %d (0 = not this time)", reached(engineHost(), id))
}

// TestCopyThroughLinks: a mount that a link in the image leads into another one is led anywhere by who has that.
func TestCopyThroughLinks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if releaseAtLeast(r.engine.release, patchedCopy) {
		t.Skip("this Engine copies safely")
	}
	maker := r.own("maker", "--network", "none", "--entrypoint", "ln", alpine, "-s", "/b/folder", "/link")
	r.docker("start", "--attach", "maker")
	image := "slipway.test/links:" + r.policy.Token
	r.host("commit", maker, image)
	t.Cleanup(func() { r.host("rmi", "--force", image) })
	r.own("led", "--network", "none", "--volume", "/b", "--volume", "/link/a", image)
	r.refused("copy-race", "cp", "led:/etc/passwd", t.TempDir())
	// A running one is let go again.
	r.docker("start", r.own("runs", "--network", "none", "--volume", "/b", "--volume", "/link/a", "--entrypoint", "sleep", image, "600"))
	r.refused("copy-race", "cp", "runs:/etc/passwd", t.TempDir())
	if out := r.docker("ps", "--filter", "name=runs", "--format", "{{.Status}}"); strings.Contains(out, "Paused") {
		t.Error(out)
	}
	r.own("beside", "--network", "none", "--volume", "/c", "--volume", "/link/a", image)
	r.docker("cp", "beside:/etc/passwd", t.TempDir())
}
