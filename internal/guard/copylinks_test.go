package guard

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNestedByLinks: links among a container's files lead the place of one mount into another.
func TestNestedByLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	upper, middle, lower := filepath.Join(dir, "u"), filepath.Join(dir, "m"), filepath.Join(dir, "l")
	for _, d := range []string{upper + "/opaque", upper + "/data", middle + "/real", lower + "/var", lower + "/run", lower + "/etc"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for at, to := range map[string]string{
		lower + "/var/run": "../run", lower + "/into": "/data/sub", lower + "/twice": "into", lower + "/up": "run/../data",
		lower + "/opaque": "/data", lower + "/real": "/data", upper + "/loop": "/loop", middle + "/data": "/etc", lower + "/gone": "/data",
	} {
		if err := os.Symlink(to, at); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 { // a whiteout
		if err := unix.Mknod(upper+"/gone", unix.S_IFCHR, 0); err != nil {
			t.Fatal(err)
		}
	}
	files := layers{upper, middle, lower}
	for mounts, want := range map[string]bool{
		"/data":                              false,
		"/data /data/sub":                    true,
		"/data /datax":                       false,
		"/var/run/docker.sock /data":         false,
		"/var/run /run/docker.sock":          true,
		"/data /into/x":                      true,
		"/data /into":                        true,
		"/data /twice/x":                     true,
		"/data /up/x":                        true,
		"/data /opaque/x":                    false,
		"/data /real/x":                      false,
		"/etc":                               true,
		"/etc/hosts":                         false,
		"/etc/ssl /data":                     false,
		"/new/folder /other/folder/that/is/": false,
	} {
		if got, err := files.nested(strings.Fields(mounts)); err != nil || got != want {
			t.Errorf("%s: nested %v, %v", mounts, got, err)
		}
	}
	if got, err := files.nested([]string{"/data", "/gone/x"}); os.Geteuid() == 0 && (got || err != nil) {
		t.Errorf("removed: nested %v, %v", got, err)
	}
	if _, err := files.nested([]string{"/loop/x"}); !errors.Is(err, unix.ELOOP) {
		t.Errorf("loop: %v", err)
	}
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
