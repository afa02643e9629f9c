// Package state is the folder in which one instance of Slipway keeps what must outlive it: its lock, its ID, the logs
// of running jobs, mirrors, workspaces and caches. It knows the folder's layout and nothing of what lies in it.
package state

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Folder is a locked state folder.
type Folder struct {
	Path     string
	Instance string // names the folder in labels of the Engine's objects, across restarts
	lock     *os.File
}

// ErrLocked says that another process uses the folder.
var ErrLocked = errors.New("another Slipway uses this state folder")

// Open makes the folder if need be (0700) and locks it until Close or the end of the process.
func Open(path string) (*Folder, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make state folder: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open state folder: %w", err)
	}
	if err := tryLock(lock); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	f := &Folder{Path: path, lock: lock}
	if f.Instance, err = instance(filepath.Join(path, "instance")); err != nil {
		lock.Close()
		return nil, err
	}
	return f, nil
}

// tryLock waits a moment, because Free of another process holds a lock for the blink of an eye.
func tryLock(f *os.File) (err error) {
	for range 10 {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// Close unlocks the folder.
func (f *Folder) Close() error {
	unlock(int(f.lock.Fd()))
	return f.lock.Close()
}

// unlock ends a lock before its file is closed: a process that is being started at this moment has that open, too, until it runs its
// program.
func unlock(fd int) { _ = unix.Flock(fd, unix.LOCK_UN) }

// Spool is where the logs of running jobs lie.
func (f *Folder) Spool() string { return filepath.Join(f.Path, "jobs") }

// Trials is where that lies which jobs of our own need, of which no server is told.
func (f *Folder) Trials() string { return filepath.Join(f.Path, "trials") }

// Sources is where mirrors and workspaces lie.
func (f *Folder) Sources() string { return filepath.Join(f.Path, "sources") }

// Guards is where the sockets of jobs lie.
func (f *Folder) Guards() string { return filepath.Join(f.Path, "guard") }

// Builds is where the last builds of projects are remembered, a folder for each project.
func (f *Folder) Builds() string { return BuildsIn(f.Path) }

// BuildsIn is that of a state folder that is not locked.
func BuildsIn(path string) string { return filepath.Join(path, "builds") }

// Ledger is where it is written whose the images of Engines are. Others than the owner of the lock write there too.
func (f *Folder) Ledger() string { return LedgerIn(f.Path) }

// LedgerIn is the ledger of a state folder that is not locked.
func LedgerIn(path string) string { return filepath.Join(path, "ledger") }

// Free reports whether nobody uses the state folder at path, and it is the one of that instance: the path alone may
// mean something else in another container. Path and instance may come from a label that a job has written, so nothing
// there is followed, waited for or changed. A folder that is gone is not free: it may only be out of sight.
func Free(path, instance string) bool {
	if !filepath.IsAbs(path) {
		return false
	}
	id, err := readCarefully(filepath.Join(path, "instance"))
	if err != nil || id != instance {
		return false
	}
	fd, err := unix.Open(filepath.Join(path, "lock"), unix.O_RDONLY|careful, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	defer unlock(fd)
	return unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB) == nil
}

const careful = unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC

func readCarefully(file string) (string, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|careful, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, 64)
	n, err := f.Read(b)
	return strings.TrimSpace(string(b[:n])), err
}

// instance reads the folder's ID, or makes one.
func instance(file string) (string, error) {
	b, err := os.ReadFile(file)
	if id := strings.TrimSpace(string(b)); err == nil && id != "" {
		return id, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read instance ID: %w", err)
	}
	random := make([]byte, 6)
	_, _ = rand.Read(random) // never fails, says its documentation
	id := hex.EncodeToString(random)
	if err := os.WriteFile(file, []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write instance ID: %w", err)
	}
	return id, nil
}

// InUse reports whether a process has the state folder at path open.
func InUse(path string) (bool, error) {
	fd, err := unix.Open(filepath.Join(path, "lock"), unix.O_RDONLY|careful, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "open", Path: filepath.Join(path, "lock"), Err: err}
	}
	defer unix.Close(fd)
	defer unlock(fd)
	err = unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}
