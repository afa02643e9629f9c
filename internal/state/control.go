package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// controlName is the socket by which others ask the owner of the lock how it is.
const controlName = "control.sock"

// ErrNotRunning says that nobody uses a state folder.
var ErrNotRunning = errors.New("no Slipway uses the state folder")

// Listen makes the socket of a locked folder, for the folder's owner only.
func (f *Folder) Listen() (net.Listener, error) {
	dir, err := os.Open(f.Path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	name := viaHandle(dir)
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) { // a killed owner's: the lock is ours
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: name})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", filepath.Join(f.Path, controlName), err)
	}
	l.SetUnlinkOnClose(false) // the name is gone with the handle; the next owner removes the socket
	return l, nil
}

// Dial reaches whoever owns the lock of the state folder at path. ErrNotRunning: nobody does.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	dir, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is not there", ErrNotRunning, path)
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", viaHandle(dir))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, fmt.Errorf("%w %s", ErrNotRunning, path)
	}
	return conn, err
}

// viaHandle is a name of the socket that is short enough for any folder: the kernel takes 107 bytes.
func viaHandle(dir *os.File) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), controlName) }
