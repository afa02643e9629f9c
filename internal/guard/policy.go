package guard

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
)

// Policy is what one job may do. Nothing in it may come from what the job's author can set, but for Secrets, which only
// restrict it.
type Policy struct {
	// Token names the job on the Engine, in names and labels: 12 lower-case hex digits, never used twice.
	Token string
	// Labels are put on every object that the job makes; a job cannot set or remove a label with one of their keys.
	Labels map[string]string

	// Scope is the set of jobs that share a build cache and image names: opaque, [a-z0-9]{1,32}. Jobs of different scopes
	// never see each other's layers or names.
	Scope string
	// ImagePath is the project's own place in its registry, registry.example.com/group/project: names at and below it
	// belong to the project and are kept as they are. "" = none.
	ImagePath string
	// Registry is the host[:port] of the registry that the job's credentials are for; it is always allowed. "" = none.
	Registry string
	// AllowedRegistries, if set, are the only other hosts that images may be pulled from and pushed to (exact host[:port],
	// or *.example.com). Empty = all but loopback, link-local and metadata addresses.
	AllowedRegistries []string

	// Mounts are what the job's container has mounted, as the job sees it: the only places of the host it can share.
	Mounts []Mount
	// Sockets are paths that mean the job's socket when a container of the job mounts them: where the job's container has
	// it, and where the machine has the Engine's.
	Sockets []string

	// Network is the network that the job's container is on, "" = none that the guard may rely on.
	Network string
	// NetworkMTU is that of networks for which the job asks for none, in bytes; 0 = that of the Engine's own bridge.
	NetworkMTU int
	// CgroupParent is the cgroup of all that the job starts, "" = the Engine's default. Needs root to be made.
	CgroupParent string
	// Limits of one job; zero values are replaced by DefaultLimits.
	Limits Limits
	// SwapLimit says that the machine's kernel can limit swap. BuildKit's steps would fail with a limit that it cannot keep.
	SwapLimit bool

	// CapAdd are the capabilities beyond Docker's default that the operator allows containers of the job.
	CapAdd []string
	// CapDrop are taken from every container of the job.
	CapDrop []string

	// Secrets are the values of the job's masked variables; DenySecrets refuses to make them part of an image, instead of
	// telling the job's author.
	Secrets     []Secret
	DenySecrets bool

	// PublishLocal opens published ports on the machine's 127.0.0.1, for a guard without a job container.
	PublishLocal bool
	// Audit records what would be refused, and lets it pass.
	Audit bool
	// Root says that the process has CAP_SYS_ADMIN: pinned binds and listeners in network namespaces work.
	Root bool
}

// Mount is a place of the host that the job's container has.
type Mount struct {
	Destination string // in the job's container, absolute and clean
	Source      string // on the host, absolute; a folder or a file
	Volume      string // name of the Engine's volume that it is, "" for a bind
	ReadOnly    bool
}

// Limits bound what one job may make.
type Limits struct {
	Containers, Networks, Volumes, Execs, Builds int
	Names                                        int   // of images, in all: each is a line of the ledger for days
	Memory                                       int64 // bytes per container, 0 = none
	NanoCPUs                                     int64 // 1e-9 CPUs per container, 0 = none
	PIDs                                         int64 // per container
	ShmSize                                      int64 // bytes
	Tmpfs                                        int64 // bytes per mount
}

// DefaultLimits are generous for honest jobs, and far below what hurts a machine.
var DefaultLimits = Limits{
	Containers: 50, Networks: 8, Volumes: 50, Execs: 500, Builds: 32, Names: 1000,
	PIDs: 16384, ShmSize: 1 << 30, Tmpfs: 4 << 30,
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits
	for _, f := range []struct{ to, from *int }{
		{&d.Containers, &l.Containers}, {&d.Networks, &l.Networks}, {&d.Volumes, &l.Volumes}, {&d.Execs, &l.Execs}, {&d.Builds, &l.Builds}, {&d.Names, &l.Names},
	} {
		if *f.from > 0 {
			*f.to = *f.from
		}
	}
	for _, f := range []struct{ to, from *int64 }{
		{&d.Memory, &l.Memory}, {&d.NanoCPUs, &l.NanoCPUs}, {&d.PIDs, &l.PIDs}, {&d.ShmSize, &l.ShmSize}, {&d.Tmpfs, &l.Tmpfs},
	} {
		if *f.from > 0 {
			*f.to = *f.from
		}
	}
	return d
}

var (
	tokenForm = regexp.MustCompile(`^[0-9a-f]{12}$`)
	scopeForm = regexp.MustCompile(`^[a-z0-9]{1,32}$`)
)

func (p *Policy) check() error {
	if !tokenForm.MatchString(p.Token) {
		return fmt.Errorf("guard: the token %q is not 12 hex digits", p.Token)
	}
	if !scopeForm.MatchString(p.Scope) {
		return errors.New("guard: the scope is not up to 32 lower-case letters and digits")
	}
	p.Limits = p.Limits.withDefaults()
	return nil
}

// prefix begins the Engine's name of every container, network and volume that the job names. It sorts after the name of
// the bridge that jobs share ("slipway", "slipway-…"): the Engine takes the default route from the first network by name.
func (p Policy) prefix() string { return namePrefix(p.Token) }

func namePrefix(token string) string { return "slipwayjob-" + token + "-" }

// LabelGuard is the label that names the guard of an object: its value is the Policy's token.
const LabelGuard = "slipway.guard"

// labels are a client's labels without ours, and then ours.
func (p Policy) labels(client map[string]string) map[string]string {
	out := make(map[string]string, len(client)+len(p.Labels)+1)
	for k, v := range client {
		if !ownLabel(k) {
			out[k] = v
		}
	}
	maps.Copy(out, p.Labels)
	out[LabelGuard] = p.Token
	return out
}
