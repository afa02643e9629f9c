package pin

import (
	"errors"
	"path/filepath"
	"strconv"
	"sync"
)

// Held are files that are mounted in a folder of ours, each once for all who use it.
type Held struct {
	dir string

	mu   sync.Mutex
	pins map[string]*heldPin // by mount point
	last int                 // numbers mount points and users
}

// heldPin is a file that is mounted.
type heldPin struct {
	id    ID
	place int
	users map[string]bool
}

// NewHeld holds files in a folder that nobody else may write to.
func NewHeld(dir string) *Held { return &Held{dir: dir, pins: map[string]*heldPin{}} }

// User is a name for a user that has none yet.
func (h *Held) User() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last++
	return "new-" + strconv.Itoa(h.last)
}

// Mount mounts a file for a user, and says where.
func (h *Held) Mount(user string, f *File) (at string, err error) {
	id, err := f.ID()
	if err != nil {
		return "", err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for at, p := range h.pins {
		// The mount holds the file, so its number cannot be another's.
		if p.id == id && p.place == f.Place {
			p.users[user] = true
			return at, nil
		}
	}
	h.last++
	at = filepath.Join(h.dir, "m"+strconv.Itoa(h.last))
	if err := f.Mount(at); err != nil {
		return "", err
	}
	h.pins[at] = &heldPin{id: id, place: f.Place, users: map[string]bool{user: true}}
	return at, nil
}

// Hand gives what a user has to another, who uses what the others have besides.
func (h *Held) Hand(user, to string, others ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.pins {
		if p.users[user] {
			delete(p.users, user)
			p.users[to] = true
		}
		for _, other := range others {
			if p.users[other] {
				p.users[to] = true
			}
		}
	}
}

// Release ends what a user has and nobody else does. What cannot be ended is left to Close.
func (h *Held) Release(user string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var failed []error
	for at, p := range h.pins {
		if !p.users[user] {
			continue
		}
		if delete(p.users, user); len(p.users) > 0 {
			continue
		}
		if err := Unmount(at); err != nil {
			failed = append(failed, err)
			continue
		}
		delete(h.pins, at)
	}
	return errors.Join(failed...)
}

// Len is how many files are held.
func (h *Held) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.pins)
}

// Close ends all of them, also those that are in use.
func (h *Held) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var failed []error
	for at := range h.pins {
		failed = append(failed, Unmount(at))
	}
	clear(h.pins)
	return errors.Join(failed...)
}
