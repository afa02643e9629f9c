package overlay

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNested: links among a container's files lead the place of one mount into another.
func TestNested(t *testing.T) {
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
	files := Layers{upper, middle, lower}
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
		if got, err := files.Nested(strings.Fields(mounts), "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"); err != nil || got != want {
			t.Errorf("%s: nested %v, %v", mounts, got, err)
		}
	}
	if got, err := files.Nested([]string{"/data", "/gone/x"}); os.Geteuid() == 0 && (got || err != nil) {
		t.Errorf("removed: nested %v, %v", got, err)
	}
	if _, err := files.Nested([]string{"/loop/x"}); !errors.Is(err, unix.ELOOP) {
		t.Errorf("loop: %v", err)
	}
}
