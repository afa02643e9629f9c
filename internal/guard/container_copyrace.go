package guard

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/slipway-ci/slipway/internal/overlay"
)

// While an Engine before 29.5.1 copies into or out of a container, it mounts the container's volumes and its networkFiles
// at their places below the container's root, by path and in view of the machine. A process that swaps such a place for
// a symlink in that moment gets them mounted anywhere on the machine (CVE-2026-42306). So a running container stands
// still while it is copied from or to, and cannot be started meanwhile; what cannot be held still is refused. A process
// elsewhere that was handed an open folder of the container is not seen: docs/guard.md says so.

// patchedCopy is the first Engine whose copies cannot be led astray by what runs in the container.
const patchedCopy = "29.5.1"

// copyCure is what to do where copying would not be safe.
var copyCure = fmt.Sprintf("copy through the workspace, which is mounted with -v, or ask for a Docker Engine of at least %s", patchedCopy)

// copies are the copies at work, per container.
type copies struct {
	mu sync.Mutex
	of map[string]*copying
}

// copying is the state of one container's copies.
type copying struct {
	life   sync.RWMutex // read: a copy is at work; write: the container is being started
	mu     sync.Mutex
	n      int
	paused bool
}

func (c *copies) state(id string) *copying {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[string]*copying{}
	}
	if c.of[id] == nil {
		c.of[id] = &copying{}
	}
	return c.of[id]
}

// beginStart waits for the end of copies before a container runs (again).
func (c *call) beginStart(ctx context.Context, id string) (release func(), err error) {
	s := c.copies.state(id)
	s.life.Lock()
	if err := ctx.Err(); err != nil {
		s.life.Unlock()
		return nil, err
	}
	return s.life.Unlock, nil
}

// beginCopy holds a container still until release.
func (c *call) beginCopy(rec containerRecord) (release func(), err error) {
	if releaseAtLeast(c.engine.release, patchedCopy) {
		return func() {}, nil
	}
	s := c.copies.state(rec.ID)
	s.life.RLock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n == 0 {
		if s.paused, err = c.holdStill(rec); err != nil {
			s.life.RUnlock()
			return nil, err
		}
	}
	s.n++
	return func() { c.endCopy(rec.ID, s) }, nil
}

func (c *call) endCopy(id string, s *copying) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.life.RUnlock()
	if s.n--; s.n > 0 || !s.paused {
		return
	}
	c.unpause(id)
	s.paused = false
}

// unpause goes on also when the guard is closing: a paused container cannot be killed on every Engine.
func (c *call) unpause(id string) {
	ctx, cancel := detached(c.ctx)
	defer cancel()
	if err := c.engine.callJSON(ctx, http.MethodPost, "/containers/"+id+"/unpause", nil, nil, nil); err != nil {
		c.log.Debug("not unpaused", "container", id, "error", err) // it was killed meanwhile
	}
}

// networkFiles are mounted in every container.
var networkFiles = []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}

// inspected is what of an inspected container decides here.
type inspected struct {
	State struct {
		Running, Paused bool
	}
	Mounts      []struct{ Destination string }
	GraphDriver overlay.Driver
}

// holdStill pauses a running container, and refuses to copy where something else could move its files.
func (c *call) holdStill(rec containerRecord) (paused bool, err error) {
	var doc inspected
	if err := c.engine.getJSON(c.ctx, "/containers/"+rec.ID+"/json", nil, &doc); err != nil {
		return false, c.written(err)
	}
	if doc.State.Running && !doc.State.Paused {
		if paused, err = c.pauseAlone(rec); err != nil {
			return false, err
		}
	}
	if err := c.notNested(doc); err != nil {
		if paused {
			c.unpause(rec.ID)
		}
		return false, err
	}
	return paused, nil
}

// notNested refuses to copy where one mount lies in another one, whose users could move it meanwhile.
func (c *call) notNested(doc inspected) error {
	if len(doc.Mounts) == 0 {
		return nil
	}
	var places []string
	for _, m := range doc.Mounts {
		places = append(places, m.Destination)
	}
	nested := false
	files, err := doc.GraphDriver.Layers()
	if err == nil {
		nested, err = files.Nested(places, networkFiles...)
	}
	switch {
	case err != nil:
		c.log.Debug("the files of a container cannot be looked at", "error", err)
		return c.refuse(deny("copy-race", copyCure, "the guard cannot see whether one volume of the container lies in another, whose users could lead this Engine's copy astray: "+
			"it must be root on the Engine's machine, and the storage driver overlay2"))
	case nested:
		return c.refuse(deny("copy-race", copyCure, "one volume of the container lies in another, whose users could lead this Engine's copy astray"))
	}
	return nil
}

// pauseAlone pauses a running container among whose processes no others are.
func (c *call) pauseAlone(rec containerRecord) (paused bool, err error) {
	if rec.Job {
		return false, c.refuse(deny("copy-race", "use cp: its files are the job's own", "this Engine's copies are led astray by running processes, and the job's own container cannot be paused for one"))
	}
	if rec.Processes != "" || c.objects.sharesProcesses(rec.ID) {
		return false, c.refuse(deny("copy-race", copyCure, "another container shares the container's processes, and could lead this Engine's copy astray"))
	}
	err = c.engine.callJSON(c.ctx, http.MethodPost, "/containers/"+rec.ID+"/pause", nil, nil, nil)
	if isStatus(err, http.StatusConflict) {
		// It has ended, or was just paused: what it is now decides.
		var now inspected
		if ierr := c.engine.getJSON(c.ctx, "/containers/"+rec.ID+"/json", nil, &now); ierr == nil && (!now.State.Running || now.State.Paused) {
			return false, nil
		}
	}
	if err != nil {
		return false, c.refuse(deny("copy-race", copyCure, "this Engine's copies are led astray by running processes, and the container cannot be paused: %v", err))
	}
	return true, nil
}

// releaseAtLeast compares releases of the Engine: 20.10.24, 29.5.1-rc.1. What cannot be read is old.
func releaseAtLeast(have, want string) bool {
	h, w := releaseParts(have), releaseParts(want)
	for i := range w {
		if h[i] != w[i] {
			return h[i] > w[i]
		}
	}
	return !strings.Contains(have, "-")
}

func releaseParts(s string) (parts [3]int) {
	s, _, _ = strings.Cut(s, "-")
	s, _, _ = strings.Cut(s, "+")
	for i, p := range strings.SplitN(s, ".", 3) {
		n, err := strconv.Atoi(p)
		if err != nil {
			return [3]int{}
		}
		parts[i] = n
	}
	return parts
}
