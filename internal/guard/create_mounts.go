package guard

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
)

// plannedMount is one mount of a container, however the client spelled it: there is one decision for all spellings.
type plannedMount struct {
	kind     mountKind
	source   string // a path as the job sees it, the job's name of a volume, or an image's ID
	target   string
	readOnly bool
	create   bool   // a folder that is missing is made, as -v does
	relabel  string // "z" or "Z": the SELinux label
	options  mount.Mount
}

type mountKind int

const (
	mountPlace     mountKind = iota // a folder or a file that the job has
	mountSocket                     // the job's socket
	mountVolume                     // a volume by name
	mountAnonymous                  // a volume of the container's own
	mountTmpfs
	mountImage
	mountAsWritten // in audit mode: what would have been refused
)

// maxMounts bounds the mounts of a container: each part of the workspace takes one of the machine's.
const maxMounts = 100

// maxPath is the kernel's limit.
const maxPath = 4096

// mounts decides about everything that a container mounts.
func (p *planner) mounts(in *createRequest, out *plan) ([]plannedMount, error) {
	n := len(in.HostConfig.Binds) + len(in.HostConfig.Mounts) + len(in.HostConfig.Tmpfs) + len(in.Config.Volumes) + len(out.image.Volumes) + len(in.HostConfig.VolumesFrom)
	if n > maxMounts {
		if err := p.refuse(deny("limit-mounts", "share a folder that holds them", "a container of a job may have %d mounts, not %d", maxMounts, n)); err != nil {
			return nil, err
		}
	}
	var all []plannedMount
	for _, spec := range in.HostConfig.Binds {
		m, err := p.parseBind(spec)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	for _, spec := range in.HostConfig.Mounts {
		m, err := p.parseMount(spec)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	for i := range all {
		if err := p.decideMount(&all[i]); err != nil {
			return nil, err
		}
	}
	var err error
	if out.host.Tmpfs, err = p.tmpfsByTarget(in.HostConfig.Tmpfs); err != nil {
		return nil, err
	}
	if out.host.VolumesFrom, err = p.volumesFrom(in.HostConfig.VolumesFrom); err != nil {
		return nil, err
	}
	return all, nil
}

// volumesFrom names the containers whose mounts are taken by their full IDs.
func (p *planner) volumesFrom(in []string) ([]string, error) {
	var out []string
	for _, from := range in {
		ref, mode, hasMode := strings.Cut(from, ":")
		other, err := p.container(ref)
		if err != nil {
			return nil, err
		}
		if hasMode && !slices.Contains([]string{"ro", "rw", "z", "Z", "ro,z", "ro,Z", "rw,z", "rw,Z", "z,ro", "Z,ro", "z,rw", "Z,rw"}, mode) {
			return nil, badRequest("invalid mode: %s", printable(mode))
		}
		from = other.ID
		if hasMode {
			from += ":" + mode
		}
		out = append(out, from)
	}
	return out, nil
}

// parseBind reads SOURCE:TARGET[:OPTIONS], TARGET alone for a volume of the container's own.
func (p *planner) parseBind(spec string) (plannedMount, error) {
	invalid := badRequest("invalid volume specification: '%s'", printable(spec))
	parts := strings.Split(spec, ":")
	m := plannedMount{create: true}
	switch len(parts) {
	case 1:
		m.kind, m.target = mountAnonymous, parts[0]
		m.options.Type = mount.TypeVolume
		return m, checkTarget(m.target)
	case 2, 3:
		m.source, m.target = parts[0], parts[1]
	default:
		return m, invalid
	}
	if checkTarget(m.target) != nil || m.source == "" {
		return m, invalid
	}
	if len(parts) == 3 {
		if err := p.bindOptions(&m, parts[2]); err != nil {
			return m, err
		}
	}
	if !path.IsAbs(m.source) {
		m.kind, m.options.Type = mountVolume, mount.TypeVolume
		return m, nil
	}
	m.kind, m.options.Type = mountPlace, mount.TypeBind
	return m, nil
}

func (p *planner) bindOptions(m *plannedMount, options string) error {
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "rw", "delegated", "cached", "consistent", "rprivate", "private":
		case "ro":
			m.readOnly = true
		case "z", "Z":
			m.relabel = o
		case "nocopy":
			m.options.VolumeOptions = &mount.VolumeOptions{NoCopy: true}
		case "shared", "rshared", "slave", "rslave":
			m.options.BindOptions = &mount.BindOptions{Propagation: mount.Propagation(o)} // in audit mode
			if err := p.refuse(propagationDenial(o)); err != nil {
				return err
			}
		default:
			return badRequest("invalid mode: %s", printable(options))
		}
	}
	return nil
}

func propagationDenial(mode string) *Denial {
	return deny("bind-propagation", "leave the option out", "with the propagation %s, mounts would reach the machine", printable(mode))
}

// parseMount reads the long spelling.
func (p *planner) parseMount(in mount.Mount) (plannedMount, error) {
	m := plannedMount{source: in.Source, target: in.Target, readOnly: in.ReadOnly, options: mount.Mount{Type: in.Type}}
	if err := checkTarget(m.target); err != nil {
		return m, err
	}
	switch in.Type {
	case mount.TypeBind:
		return p.parseBindMount(m, in)
	case mount.TypeVolume:
		return p.parseVolumeMount(m, in)
	case mount.TypeTmpfs:
		m.kind, m.source = mountTmpfs, ""
		return p.parseTmpfsMount(m, in.TmpfsOptions)
	case mount.TypeImage:
		m.kind = mountImage
		if !p.version.atLeast("1.48") {
			return m, badRequest(`invalid mount config for type "image": mount type unknown`)
		}
		if o := in.ImageOptions; o != nil && o.Subpath != "" {
			if !cleanSubpath(o.Subpath) {
				return m, badRequest(`invalid mount config for type "image": the subpath %q is not a clean relative path`, printable(o.Subpath))
			}
			m.options.ImageOptions = &mount.ImageOptions{Subpath: o.Subpath}
		}
		return m, nil
	}
	m.kind, m.options = mountAsWritten, in
	return m, p.refuse(deny("mount-type", "use bind, volume, tmpfs or image", "mounts of the type %q are not a job's", printable(string(in.Type))))
}

func (p *planner) parseBindMount(m plannedMount, in mount.Mount) (plannedMount, error) {
	if !path.IsAbs(m.source) {
		return m, badRequest(`invalid mount config for type "bind": invalid mount path: '%s' mount path must be absolute`, printable(m.source))
	}
	m.kind = mountPlace
	if o := in.BindOptions; o != nil {
		// CreateMountpoint is what -v does; here it makes folders of the workspace only.
		m.create = o.CreateMountpoint
		m.options.BindOptions = &mount.BindOptions{
			NonRecursive: o.NonRecursive, ReadOnlyNonRecursive: o.ReadOnlyNonRecursive, ReadOnlyForceRecursive: o.ReadOnlyForceRecursive,
		}
		switch o.Propagation {
		case "", mount.PropagationRPrivate, mount.PropagationPrivate:
		default:
			m.options.BindOptions.Propagation = o.Propagation // in audit mode
			return m, p.refuse(propagationDenial(string(o.Propagation)))
		}
	}
	return m, nil
}

func (p *planner) parseVolumeMount(m plannedMount, in mount.Mount) (plannedMount, error) {
	m.kind = mountVolume
	if m.source == "" {
		m.kind = mountAnonymous
	}
	o := in.VolumeOptions
	if o == nil {
		return m, nil
	}
	m.options.VolumeOptions = &mount.VolumeOptions{NoCopy: o.NoCopy}
	if m.kind == mountAnonymous {
		m.options.VolumeOptions.Labels = o.Labels
	}
	if o.Subpath != "" {
		if !p.version.atLeast("1.45") || !cleanSubpath(o.Subpath) || m.kind == mountAnonymous {
			return m, badRequest(`invalid mount config for type "volume": the subpath %q cannot be used: it must be a clean relative path below a named volume, and the Engine of this machine must know of subpaths`, printable(o.Subpath))
		}
		m.options.VolumeOptions.Subpath = o.Subpath
	}
	if d := o.DriverConfig; d != nil && (d.Name != "" && d.Name != "local" || len(d.Options) > 0) {
		m.options.VolumeOptions.DriverConfig = d // in audit mode
		name := d.Name
		for _, k := range slices.Sorted(maps.Keys(d.Options)) {
			name = k
		}
		return m, p.refuse(volumeDriverDenial(name))
	}
	return m, nil
}

// cleanSubpath reports whether the Engine would take the path without thinking about it.
func cleanSubpath(s string) bool {
	return !path.IsAbs(s) && path.Clean(s) == s && s != ".." && !strings.HasPrefix(s, "../") && !strings.ContainsAny(s, "\x00\n")
}

// decideMount says what a source is to the job.
func (p *planner) decideMount(m *plannedMount) error {
	switch m.kind {
	case mountVolume:
		if !volumeNameForm.MatchString(m.source) {
			return badRequest(`create %s: "%s" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path`, printable(m.source), printable(m.source))
		}
	case mountImage:
		img, err := p.image(m.source)
		if err != nil {
			return err
		}
		m.source = img.ID
	case mountPlace:
		if strings.ContainsAny(m.source, "\x00\n") || len(m.source) >= maxPath {
			return badRequest("invalid mount config for type \"bind\": the source is too long, or has a character that it must not have")
		}
		m.source = path.Clean(m.source)
		return p.decidePlace(m, m.source)
	}
	return nil
}

// decidePlace says what a path of the job is, as far as that can be said without looking at files.
func (p *planner) decidePlace(m *plannedMount, at string) error {
	if p.isSocket(at) {
		m.kind = mountSocket
		return nil
	}
	for _, place := range p.policy.Mounts {
		if at == place.Destination || within(at, place.Destination) {
			return nil
		}
	}
	d := p.outside(at)
	if err := p.refuse(d); err != nil {
		return err
	}
	m.kind = mountAsWritten // in audit mode
	return nil
}

// outside is the refusal of a path that the job does not have.
func (p *planner) outside(at string) *Denial {
	places := make([]string, 0, len(p.policy.Mounts))
	for _, m := range p.policy.Mounts {
		places = append(places, m.Destination)
	}
	cure := "use a named volume, or docker cp"
	if len(places) > 0 {
		cure = "only " + strings.Join(places, ", ") + " can be shared: copy the files there, use a named volume, or docker cp"
	}
	for _, s := range p.sockets() {
		if within(oneSpelling(s), oneSpelling(at)) {
			return deny("bind-socket-parent", "for Docker mount "+p.sockets()[0]+" itself; else "+cure, "%s holds the machine's sockets", printable(at))
		}
	}
	return deny("bind-outside", cure, "%s is a path of the machine or of the job's image, not a place of this job", printable(at))
}

// sockets are the paths that mean the job's socket.
func (p *planner) sockets() []string { return append(slices.Clone(p.policy.Sockets), p.socket) }

func (p *planner) isSocket(at string) bool {
	return slices.ContainsFunc(p.sockets(), func(s string) bool { return oneSpelling(s) == oneSpelling(at) })
}

// oneSpelling: /var/run is a link to /run nearly everywhere.
func oneSpelling(at string) string {
	at = path.Clean(at)
	if at == "/var/run" || strings.HasPrefix(at, "/var/run/") {
		return strings.TrimPrefix(at, "/var")
	}
	return at
}

// within reports whether a path is below a folder.
func within(at, folder string) bool {
	return strings.HasPrefix(at, strings.TrimSuffix(folder, "/")+"/") && at != folder
}

// boundPlace is what the Engine is told to mount.
type boundPlace struct {
	source   string // on the host; for a volume, its name
	volume   bool
	subpath  string
	readOnly bool
}

// finishMounts turns the mounts into the Engine's.
func (p *planner) finishMounts(out *plan, m maker) error {
	// Places first: they may still be refused, and then no volume should have been made.
	bound := map[int]boundPlace{}
	for i, planned := range out.mounts {
		if planned.kind != mountPlace && planned.kind != mountSocket {
			continue
		}
		b, err := m.bind(planned)
		if err != nil {
			return err
		}
		bound[i] = b
	}
	for i, planned := range out.mounts {
		done := planned.options
		done.Target, done.ReadOnly = planned.target, planned.readOnly
		switch planned.kind {
		case mountPlace, mountSocket:
			done = bound[i].mount(done)
		case mountVolume:
			name, err := m.volume(planned.source)
			if err != nil {
				return err
			}
			done.Source = name
		case mountAnonymous:
			if done.VolumeOptions == nil {
				done.VolumeOptions = &mount.VolumeOptions{}
			}
			done.VolumeOptions.Labels = p.policy.labels(done.VolumeOptions.Labels)
		case mountImage, mountAsWritten:
			done.Source = planned.source
		}
		addMount(&out.host, done, planned.relabel)
	}
	return nil
}

// mount is the mount of a place.
func (b boundPlace) mount(m mount.Mount) mount.Mount {
	m.Source, m.ReadOnly = b.source, m.ReadOnly || b.readOnly
	if b.volume {
		m.Type, m.BindOptions = mount.TypeVolume, nil
		// Nothing of the image is copied into the workspace.
		m.VolumeOptions = &mount.VolumeOptions{NoCopy: true, Subpath: b.subpath}
		return m
	}
	m.Type, m.VolumeOptions = mount.TypeBind, nil
	return m
}

// addMount writes a mount in the long spelling: there the Engine makes no folders. SELinux labels can be asked for in the
// short one only.
func addMount(host *container.HostConfig, m mount.Mount, relabel string) {
	if relabel == "" || strings.Contains(m.Source+m.Target, ":") || m.VolumeOptions != nil && m.VolumeOptions.Subpath != "" {
		host.Mounts = append(host.Mounts, m)
		return
	}
	mode := relabel
	if m.ReadOnly {
		mode += ",ro"
	}
	if m.VolumeOptions != nil && m.VolumeOptions.NoCopy {
		mode += ",nocopy"
	}
	host.Binds = append(host.Binds, m.Source+":"+m.Target+":"+mode)
}
