package guard

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipway-ci/slipway/internal/ledger"
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
	aliases    map[string][]*ledger.Shared // the temporary names of images
	named      map[string]bool             // names that the job gave to images
	holds      map[string]bool             // the names by which the job holds images that it made
	job        string                      // full ID of the job's own container, "" = none
	told       map[string]bool
	gone       map[string]string    // IDs of containers and networks, names of volumes that were the job's → image as written
	ended      map[string]time.Time // execs that are over, and when that was seen
}

// containerRecord is what the Engine does not keep of a container.
type containerRecord struct {
	ID    string
	Name  string // as the job wrote it
	Image string // the image's name as the job wrote it
	Job   bool   // it is the job's own container
	// Processes is the container whose processes it sees and is seen by, full ID; "" = it has its own only.
	Processes string
	Ports     []portRequest
	// Pins are the folders in the guard's folder that its binds are pinned at.
	Pins map[string]string // pin → source as the job wrote it
	// Sources are what the job shares with it: target in the container → source as the job wrote it.
	Sources map[string]string
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
	JobAsked bool   // the job itself connected its container with it
	Given    bool   // not made by the job, which has it with its services
}

// predefined says that the job has the network from its start, and cannot remove it.
func (n networkRecord) predefined() bool { return n.Name == defaultName || n.Given }

func newObjects(p Policy) *objects {
	return &objects{
		prefix: p.prefix(), containers: map[string]*containerRecord{}, networks: map[string]*networkRecord{},
		volumes: map[string]bool{}, execs: map[string]string{}, images: map[string]bool{}, aliases: map[string][]*ledger.Shared{}, holds: map[string]bool{}, named: map[string]bool{}, told: map[string]bool{},
		gone: map[string]string{}, ended: map[string]time.Time{},
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
	// The Engine has each name once: one that had it before is gone, if only the Engine has not told yet.
	for id, old := range o.containers {
		if c.Name != "" && old.Name == c.Name && id != c.ID && !old.Job {
			delete(o.containers, id)
			o.gone[id] = old.Image
		}
	}
	o.containers[c.ID] = c
	if c.Job {
		o.job = c.ID
	}
}

func (o *objects) dropContainer(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c, ok := o.containers[id]; ok {
		o.gone[id] = c.Image
	}
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

// countContainers is how many containers the job made.
func (o *objects) countContainers() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := len(o.containers)
	if _, ok := o.containers[o.job]; ok {
		n--
	}
	return n
}

// update changes a record in place.
func (o *objects) update(id string, change func(*containerRecord)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c, ok := o.containers[id]; ok {
		change(c)
	}
}

// processesOf is the container whose processes one of that mode is among. By way of another one it is still that one's
// when the other is gone.
func (o *objects) processesOf(mode string) string {
	ref, ok := strings.CutPrefix(mode, "container:")
	if !ok {
		return ""
	}
	if c, err := o.container(ref); err == nil {
		return cmp.Or(c.Processes, c.ID)
	}
	return ref
}

// sharesProcesses reports whether there is another container among the processes of this one.
func (o *objects) sharesProcesses(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.containers {
		if c.Processes == id {
			return true
		}
	}
	return false
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

// jobAsked notes whether the job itself connected its container with a network.
func (o *objects) jobAsked(id string, asked bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n, ok := o.networks[id]; ok {
		n.JobAsked = asked
	}
}

func (o *objects) dropNetwork(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.networks, id)
	o.gone[id] = ""
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
	o.gone[name] = ""
}

// everOwn reports whether a container, network or volume is the job's, or was before it was removed.
func (o *objects) everOwn(id string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, container := o.containers[id]
	_, network := o.networks[id]
	_, gone := o.gone[id]
	return container || network || gone || o.volumes[id]
}

// imageOf is the image of a container as the job wrote it, also after the container was removed.
func (o *objects) imageOf(id string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c, ok := o.containers[id]; ok {
		return c.Image
	}
	return o.gone[id]
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

// liveExecs is how many execs are not known to be over.
func (o *objects) liveExecs() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.execs) - len(o.ended)
}

func (o *objects) unfinishedExecs() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []string
	for id := range o.execs {
		if _, over := o.ended[id]; !over {
			out = append(out, id)
		}
	}
	return out
}

func (o *objects) endExec(id string, when time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended[id] = when
}

func (o *objects) dropExec(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.execs, id)
	delete(o.ended, id)
}

// dropOldExecs forgets execs that were over before then.
func (o *objects) dropOldExecs(before time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, when := range o.ended {
		if when.Before(before) {
			delete(o.execs, id)
			delete(o.ended, id)
		}
	}
}

// countName notes that the job names an image so, and reports whether it may: it has fewer names, or had this one.
func (o *objects) countName(name string, limit int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.named[name] && len(o.named) >= limit {
		return false
	}
	o.named[name] = true
	return true
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

func (o *objects) addAlias(name string, use *ledger.Shared) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.aliases[name] = append(o.aliases[name], use)
}

func (o *objects) hasAlias(name string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.aliases[name]) > 0
}

// takeAliases returns all uses of names and forgets them.
func (o *objects) takeAliases() []*ledger.Shared {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []*ledger.Shared
	for _, uses := range o.aliases {
		out = append(out, uses...)
	}
	clear(o.aliases)
	return out
}

func (o *objects) addHold(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.holds[name] = true
}

func (o *objects) hasHold(name string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.holds[name]
}

func (o *objects) dropHold(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.holds, name)
}

func (o *objects) allHolds() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Sorted(maps.Keys(o.holds))
}

func (o *objects) dropImage(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.images, id)
}

// allImages are the IDs of the images that the job built or committed.
func (o *objects) allImages() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Sorted(maps.Keys(o.images))
}
