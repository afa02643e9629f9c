package guard

import (
	"maps"
	"slices"
	"strings"
	"sync"
)

// objects is the record of what the guard itself saw created for its job: the only authority on what is the job's.
// Labels are none, because images bring labels of their own into containers.
type objects struct {
	prefix string

	mu         sync.Mutex
	containers map[string]*containerRecord // by full ID
	networks   map[string]*networkRecord   // by full ID
	volumes    map[string]bool             // by the Engine's name
	execs      map[string]string           // ID → full ID of the container
	images     map[string]bool             // IDs that the job built or committed, whatever they are named
	job        string                      // full ID of the job's own container, "" = none
	told       map[string]bool
}

// containerRecord is what the Engine does not keep of a container.
type containerRecord struct {
	ID    string
	Name  string // as the job wrote it; "" if the Engine chose one
	Image string // the image's name as the job wrote it
	Job   bool   // it is the job's own container
	Ports []portRequest
	// Pins are the folders in the guard's folder that its binds are pinned at.
	Pins map[string]string // pin → source as the job wrote it
}

// portRequest is a port that the job asked to publish.
type portRequest struct {
	Port     uint16 // in the container
	Protocol string // tcp, udp
	HostIP   string // as written; it is not used
	HostPort uint16 // 0 = any
	HostLast uint16 // the last of a range that begins with HostPort: the first free one is taken; 0 = no range
}

// networkRecord is what the Engine does not keep of a network.
type networkRecord struct {
	ID, Name string // Name as the job wrote it; "bridge" for the job's default network
}

func newObjects(p Policy) *objects {
	return &objects{
		prefix: p.prefix(), containers: map[string]*containerRecord{}, networks: map[string]*networkRecord{},
		volumes: map[string]bool{}, execs: map[string]string{}, images: map[string]bool{}, told: map[string]bool{},
	}
}

func (o *objects) firstTime(key string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer func() { o.told[key] = true }()
	return !o.told[key]
}

func (o *objects) addContainer(c *containerRecord) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.containers[c.ID] = c
	if c.Job {
		o.job = c.ID
	}
}

func (o *objects) dropContainer(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.containers, id)
}

// container finds an own container by what a client calls it, in the Engine's order: full ID, name, beginning of an ID.
// What is not the job's does not exist.
func (o *objects) container(ref string) (containerRecord, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c, ok := o.containers[ref]; ok {
		return *c, nil
	}
	name := strings.TrimPrefix(ref, "/")
	for _, c := range o.containers {
		if c.Name != "" && c.Name == name {
			return *c, nil
		}
	}
	var found *containerRecord
	for id, c := range o.containers {
		if len(ref) > 0 && strings.HasPrefix(id, ref) {
			if found != nil {
				return containerRecord{}, badRequest("Multiple IDs found with provided prefix: %s", ref)
			}
			found = c
		}
	}
	if found == nil {
		return containerRecord{}, noContainer(ref)
	}
	return *found, nil
}

// ids are the full IDs of all own containers.
func (o *objects) ids() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Sorted(maps.Keys(o.containers))
}

// update changes a record in place.
func (o *objects) update(id string, change func(*containerRecord)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c, ok := o.containers[id]; ok {
		change(c)
	}
}

func (o *objects) jobContainer() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.job
}

func (o *objects) ownsContainer(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.containers[id]
	return ok
}

func (o *objects) addNetwork(n networkRecord) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.networks[n.ID] = &n
}

func (o *objects) dropNetwork(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.networks, id)
}

// network finds an own network by full ID, name, or beginning of an ID.
func (o *objects) network(ref string) (networkRecord, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n, ok := o.networks[ref]; ok {
		return *n, nil
	}
	for _, n := range o.networks {
		if n.Name == ref {
			return *n, nil
		}
	}
	var found *networkRecord
	for id, n := range o.networks {
		if len(ref) > 0 && strings.HasPrefix(id, ref) {
			if found != nil {
				return networkRecord{}, badRequest("network %s is ambiguous (2 matches found based on ID prefix)", ref)
			}
			found = n
		}
	}
	if found == nil {
		return networkRecord{}, noNetwork(ref)
	}
	return *found, nil
}

func (o *objects) allNetworks() []networkRecord {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []networkRecord
	for _, id := range slices.Sorted(maps.Keys(o.networks)) {
		out = append(out, *o.networks[id])
	}
	return out
}

// volume is the Engine's name of an own volume: the job's name for it with the prefix, or the name that the Engine gave.
func (o *objects) volume(ref string) (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, name := range []string{o.prefix + ref, ref} {
		if o.volumes[name] {
			return name, nil
		}
	}
	return "", noVolume(ref)
}

func (o *objects) addVolume(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.volumes[name] = true
}

func (o *objects) dropVolume(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.volumes, name)
}

func (o *objects) allVolumes() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Sorted(maps.Keys(o.volumes))
}

func (o *objects) addExec(id, container string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.execs[id] = container
}

// exec takes full IDs only, as the Engine does.
func (o *objects) exec(id string) (container string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c, ok := o.execs[id]; ok {
		return c, nil
	}
	return "", noExec(id)
}

func (o *objects) addImage(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.images[id] = true
}

func (o *objects) ownsImage(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.images[id]
}
