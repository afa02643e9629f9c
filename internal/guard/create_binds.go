package guard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/slipway-ci/slipway/internal/pin"
)

// bind finds what the Engine is to mount for a path of the job: the place itself, a subpath of a volume, or a pin.
func (c *call) bind(ctx context.Context, user string, m plannedMount, rec *containerRecord) (boundPlace, error) {
	if m.kind == mountSocket {
		rec.Pins[c.Socket()] = m.source
		return boundPlace{source: c.Socket()}, nil
	}
	for _, place := range slices.Backward(c.policy.Mounts) {
		if m.source == place.Destination {
			return c.wholePlace(m, place, rec)
		}
	}
	found, err := c.view().Open(m.source, m.create)
	if errors.Is(err, fs.ErrPermission) && !c.policy.Root {
		return c.unseen(ctx, m)
	}
	if err != nil {
		return c.notFound(m, rec, err)
	}
	defer found.Close()
	place := c.policy.Mounts[found.Place]
	if found.Path == "" {
		return c.wholePlace(m, place, rec)
	}
	if err := c.keepsOut(m, path.Join(place.Source, found.Path)); err != nil {
		return boundPlace{}, err
	}
	if c.engine.version.atLeast("1.45") {
		return c.partOf(ctx, place, found.Path)
	}
	if !c.policy.Root {
		return boundPlace{}, needsRoot(place)
	}
	at, err := c.pin(ctx, user, found)
	if err != nil {
		return boundPlace{}, err
	}
	rec.Pins[at] = m.source
	return boundPlace{source: at, readOnly: place.ReadOnly}, nil
}

// partOf is a part of a place, which an Engine of today finds by itself without leaving the place.
func (c *call) partOf(ctx context.Context, place Mount, subpath string) (boundPlace, error) {
	volume := place.Volume
	if volume == "" {
		var err error
		if volume, err = c.folderVolume(ctx, place); err != nil {
			return boundPlace{}, err
		}
	}
	return boundPlace{source: volume, volume: true, subpath: subpath, readOnly: place.ReadOnly}, nil
}

// unseen is a part of a place whose files the guard itself may not see: the Engine must find it.
func (c *call) unseen(ctx context.Context, m plannedMount) (boundPlace, error) {
	place := Mount{}
	for _, other := range c.policy.Mounts {
		if within(m.source, other.Destination) && len(other.Destination) > len(place.Destination) {
			place = other
		}
	}
	if !c.engine.version.atLeast("1.45") {
		return boundPlace{}, needsRoot(place)
	}
	return c.partOf(ctx, place, strings.TrimPrefix(strings.TrimPrefix(m.source, place.Destination), "/"))
}

func needsRoot(place Mount) *Denial {
	return deny("needs-root", "share the whole of "+place.Destination+", or let the machine's operator run slipway as root, or with Docker 26 or newer",
		"this Engine can share a part of %s safely only with CAP_SYS_ADMIN, which slipway does not have", place.Destination)
}

// wholePlace is a mount of the job as it is. Nobody in the job can move it.
func (c *call) wholePlace(m plannedMount, place Mount, rec *containerRecord) (boundPlace, error) {
	if err := c.keepsOut(m, place.Source); err != nil {
		return boundPlace{}, err
	}
	rec.Pins[place.Source] = m.source
	return boundPlace{source: cmp.Or(place.Volume, place.Source), volume: place.Volume != "", readOnly: place.ReadOnly}, nil
}

// keepsOut keeps a container from getting the guard's own folder: who writes there moves the pins.
func (c *call) keepsOut(m plannedMount, onHost string) error {
	if onHost != c.dir && !within(c.dir, onHost) {
		return nil
	}
	return c.refuse(deny("bind-socket-parent", "mount "+c.policyPlanner().sockets()[0]+" itself", "%s holds the job's socket", printable(m.source)))
}

// notFound says why a path cannot be shared: links of the job may lead anywhere.
func (c *call) notFound(m plannedMount, rec *containerRecord, err error) (boundPlace, error) {
	var out *pin.OutsideError
	p := c.policyPlanner()
	switch {
	case errors.As(err, &out) && p.isSocket(out.Path):
		rec.Pins[c.Socket()] = m.source
		return boundPlace{source: c.Socket()}, nil
	case errors.As(err, &out):
		d := p.outside(out.Path)
		if m.source != out.Path {
			d.What = fmt.Sprintf("%s is a link to somewhere else: %s", printable(m.source), d.What)
		}
		if err := c.refuse(d); err != nil {
			return boundPlace{}, err
		}
		return boundPlace{source: m.source}, nil // in audit mode
	case errors.Is(err, fs.ErrNotExist):
		return boundPlace{}, badRequest(`invalid mount config for type "bind": bind source path does not exist: %s`, printable(m.source))
	}
	// The kernel's words, without paths of the machine.
	var errno interface{ Is(error) bool }
	if errors.As(err, &errno) {
		return boundPlace{}, badRequest("invalid mount config for type \"bind\": %s: %v", printable(m.source), errno)
	}
	return boundPlace{}, badRequest("invalid mount config for type \"bind\": %s cannot be opened", printable(m.source))
}

// policyPlanner is a planner for the rules alone.
func (g *Guard) policyPlanner() *planner { return &planner{policy: g.policy, socket: g.Socket()} }

// view is what the job sees of the machine.
func (g *Guard) view() pin.View {
	var v pin.View
	for _, m := range g.policy.Mounts {
		v = append(v, pin.Place{At: path.Clean(m.Destination), Source: m.Source, ReadOnly: m.ReadOnly})
	}
	return v
}

// hideFolderVolumes takes the paths of the guard's own volumes out of what the Engine says.
func (g *Guard) hideFolderVolumes(message string) string {
	volume := regexp.MustCompile(`[^\s,:"]*` + regexp.QuoteMeta(g.policy.prefix()+".folder") + `\d+(/_data)?`)
	return volume.ReplaceAllString(message, "the job's folder")
}

// isJobMount reports whether a volume belongs to the job's container: it is no volume of the job's to remove.
func (g *Guard) isJobMount(volume string) bool {
	return slices.ContainsFunc(g.policy.Mounts, func(m Mount) bool { return m.Volume == volume })
}

// manyPins is when to look for containers that removed themselves.
const manyPins = 64

// pin mounts an open file in the guard's folder, once for all containers that use it. user is the ID of the container, or what stands for
// it until it has one.
func (g *Guard) pin(ctx context.Context, user string, f *pin.File) (string, error) {
	if g.pins.Len() >= manyPins {
		if err := g.forgetGone(ctx); err != nil {
			return "", err
		}
	}
	return g.pins.Mount(user, f)
}

// unpin lets go of what a container's binds are pinned at. It is called when the container is gone, and may be called
// again.
func (g *Guard) unpin(user string) {
	if err := g.pins.Release(user); err != nil {
		g.log.Warn("a pin is left", "error", err) // Close tries again
	}
}

// unpinAll ends all pins, also of containers that still run. It is called before the guard's folder is removed.
func (g *Guard) unpinAll() error {
	return errors.Join(g.pins.Close(), pin.UnmountBelow(g.dir))
}

// folderVolumes are the volumes over folders of the machine, by the folder.
type folderVolumes struct {
	mu    sync.Mutex
	made  int
	names map[string]string
}

// PlacesChanged is called when other folders have taken the places of those that the job's container had: from its next start on it has
// them, and so have containers that are made from now on.
func (g *Guard) PlacesChanged() {
	g.folders.mu.Lock()
	defer g.folders.mu.Unlock()
	clear(g.folders.names) // a volume that is in use stays where it leads
}

// folderVolume is the volume over a place of the job that is a folder of the machine. The Engine mounts parts of it safely by itself.
func (g *Guard) folderVolume(ctx context.Context, place Mount) (string, error) {
	g.folders.mu.Lock()
	defer g.folders.mu.Unlock()
	key := place.Source
	if place.ReadOnly {
		key += " ro"
	}
	if name, ok := g.folders.names[key]; ok {
		return name, nil
	}
	name := fmt.Sprintf("%s.folder%d", g.policy.prefix(), g.folders.made)
	options := "rbind"
	if place.ReadOnly {
		options += ",ro"
	}
	body := map[string]any{
		"Name": name, "Driver": "local", "Labels": g.policy.labels(nil),
		"DriverOpts": map[string]string{"type": "none", "o": options, "device": filepath.Clean(place.Source)},
	}
	if err := g.engine.callJSON(ctx, http.MethodPost, "/volumes/create", url.Values{}, body, nil); err != nil {
		return "", fmt.Errorf("make a volume over %s: %w", place.Destination, err)
	}
	g.folders.made++
	g.objects.addVolume(name)
	if g.folders.names == nil {
		g.folders.names = map[string]string{}
	}
	g.folders.names[key] = name
	return name, nil
}
