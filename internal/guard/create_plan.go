package guard

import (
	"fmt"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// planner decides about one container. It asks through its funcs only and changes nothing, so that it runs without an
// Engine too.
type planner struct {
	policy    Policy
	socket    string // the job's, on the host
	version   apiVersion
	refuse    func(*Denial) error
	container func(ref string) (containerRecord, error)
	network   func(ref string) (networkRecord, error)
	image     func(ref string) (image, error)
	info      func() (engineInfo, error)

	asked    string // the image, as the client wrote it
	warnings []string
}

// engineInfo is what matters here of the Engine's settings.
type engineInfo struct{ DefaultRuntime, CgroupVersion string }

// plan is a container as it was decided upon. What is still to be made for it has its place in mounts and net.
type plan struct {
	name   string // as the job wrote it
	image  image
	config container.Config
	host   container.HostConfig
	mounts []plannedMount
	net    plannedNet
	ports  []portRequest
	all    bool // publish all ports that the container exposes
}

func (p *planner) warn(format string, args ...any) {
	p.warnings = append(p.warnings, "slipway: "+fmt.Sprintf(format, args...))
}

// plan decides about every field of a request.
func (p *planner) plan(name string, in *createRequest) (*plan, error) {
	out := &plan{name: name}
	if in.Image == "" {
		return nil, badRequest("no command specified: the image is missing")
	}
	p.asked = in.Image
	if in.unknown != "" {
		p.warn("the field %q is not known and was dropped", in.unknown)
	}
	var err error
	if out.image, err = p.image(in.Image); err != nil {
		return nil, err
	}
	if out.config, err = p.config(in, out.image); err != nil {
		return nil, err
	}
	if err := p.hostConfig(in.HostConfig, &out.host); err != nil {
		return nil, err
	}
	if out.mounts, err = p.mounts(in, out); err != nil {
		return nil, err
	}
	if out.net, err = p.networks(in, name); err != nil {
		return nil, err
	}
	if out.ports, err = p.ports(in.HostConfig, out.net); err != nil {
		return nil, err
	}
	if out.all = in.HostConfig.PublishAllPorts && out.net.publishes(); out.all {
		// What the image exposes besides is known only when the container is there.
		var exposed []string
		for port := range in.ExposedPorts {
			exposed = append(exposed, port.String())
		}
		out.ports = withExposed(out.ports, exposed)
	}
	return out, nil
}

// maker makes what a plan needs, and tells where it is.
type maker struct {
	network func() (id string, err error)
	volume  func(name string) (engineName string, err error)
	bind    func(m plannedMount) (boundPlace, error)
}

// finish makes what the plan needs and returns the request for the Engine. Places are bound first: they are the only
// ones that may still be refused.
func (p *planner) finish(out *plan, m maker) (*container.CreateRequest, error) {
	if err := p.finishMounts(out, m); err != nil {
		return nil, err
	}
	endpoints, err := out.net.finish(&out.host, m)
	if err != nil {
		return nil, err
	}
	config, host := out.config, out.host
	return &container.CreateRequest{
		Config: &config, HostConfig: &host,
		NetworkingConfig: &network.NetworkingConfig{EndpointsConfig: endpoints},
	}, nil
}
