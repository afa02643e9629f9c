package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/slipway-ci/slipway/internal/guard"
)

// longestGuardDir leaves room for what lies in the folder of guards: a folder per job, and in it the socket, whose path
// Linux limits to 107 bytes.
const longestGuardDir = 107 - len("/0123456789ab/"+guard.SocketName)

// guardPath is where the folder for the sockets of jobs is to be.
func guardPath(wanted, instance string) string {
	switch {
	case len(wanted) <= longestGuardDir:
		return wanted
	case os.Geteuid() == 0:
		return filepath.Join("/run/slipway", instance)
	}
	return filepath.Join(cmp.Or(os.Getenv("XDG_RUNTIME_DIR"), os.TempDir()), "slipway-"+instance)
}

// guardDir is the folder for the sockets of jobs: the wanted one, or a shorter one where a socket's path would get too
// long. It is there, and nobody else's, when guardDir returns.
func guardDir(wanted, instance string) (string, error) {
	dir := guardPath(wanted, instance)
	if err := os.MkdirAll(filepath.Dir(dir), 0o711); err != nil {
		return "", fmt.Errorf("make the folder for the sockets of jobs: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make the folder for the sockets of jobs: %w", err)
	}
	st, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	if own, ok := st.Sys().(*syscall.Stat_t); !st.IsDir() || !ok || int(own.Uid) != os.Geteuid() || st.Mode().Perm()&0o022 != 0 {
		return "", withHint(fmt.Errorf("%s, where the sockets of jobs are to lie, belongs to somebody else", dir),
			"use a shorter state folder: state_dir in the [slipway] table of config.toml")
	}
	return dir, nil
}
