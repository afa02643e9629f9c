package guard

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/slipway-ci/slipway/internal/pin"
)

// made is what the guard made for containers of the job that the Engine knows nothing of, and how many there may be.
type made struct {
	g *Guard

	mu       sync.Mutex
	pins     map[string]*heldPin // by mount point
	last     int                 // numbers pins and users
	folders  map[string]string   // folder on the host → volume over it
	coming   int                 // containers that are being made
	settings *engineInfo
}

// heldPin is a file that containers have mounted by way of the guard's folder.
type heldPin struct {
	id    pin.ID
	place int
	users map[string]bool // IDs of containers; of those that are being made, what newUser gave
}

func newMade(g *Guard) *made {
	return &made{g: g, pins: map[string]*heldPin{}, folders: map[string]string{}}
}

// reserve counts a container that is being made, and says if there may be none more. free ends that: by then it has its
// record, or failed.
func (m *made) reserve(ctx context.Context, planned *plan) (free func(), denied *Denial, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if denied = m.full(planned); denied != nil {
		// Containers that removed themselves have their records still, and so have their volumes.
		m.mu.Unlock()
		err = m.g.forgetGone(ctx)
		m.mu.Lock()
		denied = m.full(planned)
	}
	m.coming++
	return sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.coming--
	}), denied, err
}

// full says which limit of the job is reached. The caller holds the lock.
func (m *made) full(planned *plan) *Denial {
	limits := m.g.policy.Limits
	if n := len(m.g.jobVolumes()); n >= limits.Volumes && planned.mayHaveVolumes() {
		return deny("limit-volumes", "remove volumes that are not needed any more (docker volume rm, docker rm --volumes)", "this job has %d volumes already", n)
	}
	if m.g.objects.countContainers()+m.coming >= limits.Containers {
		return deny("limit-containers", "remove containers that are not needed any more (docker rm, or run with --rm)", "a job may have %d containers at once", limits.Containers)
	}
	return nil
}

// forgetGone drops the records and pins of containers that the Engine does not have any more.
func (g *Guard) forgetGone(ctx context.Context) error {
	known := g.objects.ids() // before the question: what comes later is not meant
	var list []struct {
		ID string `json:"Id"`
	}
	query := url.Values{"all": {"1"}, "filters": {`{"label":["` + LabelGuard + "=" + g.policy.Token + `"]}`}}
	if err := g.engine.getJSON(ctx, "/containers/json", query, &list); err != nil {
		return fmt.Errorf("look which containers are there: %w", err)
	}
	there := map[string]bool{g.objects.jobContainer(): true}
	for _, c := range list {
		there[c.ID] = true
	}
	for _, id := range known {
		if !there[id] {
			g.forget(id)
		}
	}
	return g.forgetGoneVolumes(ctx)
}

// forgetGoneVolumes does the same for volumes that went with their container. Those that an image asked for have no
// label to list them by.
func (g *Guard) forgetGoneVolumes(ctx context.Context) error {
	known := g.objects.allVolumes()
	var list struct{ Volumes []struct{ Name string } }
	if err := g.engine.getJSON(ctx, "/volumes", nil, &list); err != nil {
		return fmt.Errorf("look which volumes are there: %w", err)
	}
	there := map[string]bool{}
	for _, v := range list.Volumes {
		there[v.Name] = true
	}
	for _, name := range known {
		if !there[name] {
			g.objects.dropVolume(name)
		}
	}
	return nil
}

// info is asked for once.
func (m *made) info(ctx context.Context) (engineInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.settings == nil {
		var i engineInfo
		if err := m.g.engine.getJSON(ctx, "/info", nil, &i); err != nil {
			return engineInfo{}, fmt.Errorf("ask the Engine for its settings: %w", err)
		}
		m.settings = &i
	}
	return *m.settings, nil
}

// newUser stands for a container that has no ID yet.
func (m *made) newUser() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last++
	return "new-" + strconv.Itoa(m.last)
}

// manyPins is when to look for containers that removed themselves.
const manyPins = 64

// pin mounts an open file in the guard's folder, once for all containers that use it.
func (m *made) pin(ctx context.Context, user string, f *pin.File) (string, error) {
	id, err := f.ID()
	if err != nil {
		return "", err
	}
	if m.count() >= manyPins {
		if err := m.g.forgetGone(ctx); err != nil {
			return "", err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for at, p := range m.pins {
		// The mount holds the file, so its number cannot be another's.
		if p.id == id && p.place == f.Place {
			p.users[user] = true
			return at, nil
		}
	}
	m.last++
	at := filepath.Join(m.g.dir, "m"+strconv.Itoa(m.last))
	if err := f.Mount(at); err != nil {
		return "", err
	}
	m.pins[at] = &heldPin{id: id, place: f.Place, users: map[string]bool{user: true}}
	return at, nil
}

func (m *made) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.pins)
}

// pinnedFor gives a new container its ID as a user of its pins, and of those that it takes from other containers.
func (m *made) pinnedFor(user, id string, from []string, o *objects) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var others []string
	for _, f := range from {
		ref, _, _ := strings.Cut(f, ":")
		if rec, err := o.container(ref); err == nil {
			others = append(others, rec.ID)
		}
	}
	for _, p := range m.pins {
		if p.users[user] {
			delete(p.users, user)
			p.users[id] = true
		}
		for _, other := range others {
			if p.users[other] {
				p.users[id] = true
			}
		}
	}
}

// unpin ends the pins that nobody uses any more.
func (m *made) unpin(user string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for at, p := range m.pins {
		if !p.users[user] {
			continue
		}
		if delete(p.users, user); len(p.users) > 0 {
			continue
		}
		if err := pin.Unmount(at); err != nil {
			m.g.log.Warn("a pin is left", "at", at, "error", err) // Close tries again
			continue
		}
		delete(m.pins, at)
	}
}

func (m *made) unpinAll() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var failed []error
	for at := range m.pins {
		failed = append(failed, pin.Unmount(at))
	}
	clear(m.pins)
	return errors.Join(failed...)
}

// folderVolume is the volume over a place of the job that is a folder of the machine.
func (m *made) folderVolume(ctx context.Context, place Mount) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := place.Source
	if place.ReadOnly {
		key += " ro"
	}
	if name, ok := m.folders[key]; ok {
		return name, nil
	}
	name, err := m.g.createFolderVolume(ctx, len(m.folders), place)
	if err == nil {
		m.folders[key] = name
	}
	return name, err
}
