package guard

import (
	"maps"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"github.com/slipway-ci/slipway/internal/progress"
)

// plannedNet is which networks a container will be on.
type plannedNet struct {
	// mode is what goes to the Engine: none, container:<ID>, or a network's full ID; "" is the job's default network,
	// which may have to be made.
	mode string
	// endpoints by network, "" again for the default one.
	endpoints map[string]*network.EndpointSettings
}

// publishes reports whether the container has an address of its own at which ports can be published.
func (n plannedNet) publishes() bool { return len(n.endpoints) > 0 }

// networks decides about NetworkMode, EndpointsConfig and links.
func (p *planner) networks(in *createRequest, name string) (plannedNet, error) {
	mode, alone, err := p.networkMode(string(in.HostConfig.NetworkMode))
	if err != nil {
		return plannedNet{}, err
	}
	out := plannedNet{mode: mode}
	for _, key := range slices.Sorted(maps.Keys(in.NetworkingConfig.EndpointsConfig)) {
		// Clients name the mode here as well.
		if alone && key == string(in.HostConfig.NetworkMode) {
			continue
		}
		id, err := p.networkID(key)
		if err != nil {
			return plannedNet{}, err
		}
		if alone {
			continue
		}
		if _, ok := out.endpoints[id]; ok {
			return plannedNet{}, badRequest("the network %s is named twice", printable(key))
		}
		if err := out.add(p, id, in.NetworkingConfig.EndpointsConfig[key]); err != nil {
			return plannedNet{}, err
		}
	}
	if alone {
		return out, nil
	}
	if _, ok := out.endpoints[mode]; !ok {
		if err := out.add(p, mode, nil); err != nil {
			return plannedNet{}, err
		}
	}
	if len(out.endpoints) > 1 && !p.version.atLeast("1.44") {
		return plannedNet{}, badRequest("Container cannot be connected to network endpoints: %s",
			strings.Join(slices.Sorted(maps.Keys(in.NetworkingConfig.EndpointsConfig)), ", "))
	}
	// The Engine's links are those of its default bridge; here they are names on the job's network.
	links, err := p.links(in.HostConfig.Links)
	if err != nil {
		return plannedNet{}, err
	}
	out.endpoints[mode].Links = append(out.endpoints[mode].Links, links...)
	if name != "" {
		for _, e := range out.endpoints {
			if !slices.Contains(e.Aliases, name) {
				e.Aliases = append(e.Aliases, name)
			}
		}
	}
	return out, nil
}

// networkMode is what the Engine is told; alone means that the container has no network of its own.
func (p *planner) networkMode(mode string) (out string, alone bool, err error) {
	switch {
	case mode == "none":
		return mode, true, nil
	case mode == "host":
		return mode, true, p.refuse(deny("network-host", "leave --network out: published ports are reachable at localhost in the job, containers by their names",
			"the machine's network is open to what this job must not reach"))
	case strings.HasPrefix(mode, "container:"):
		other, err := p.container(strings.TrimPrefix(mode, "container:"))
		return "container:" + other.ID, true, err
	}
	out, err = p.networkID(mode)
	return out, false, err
}

// networkID is the full ID of an own network, "" for the job's default one.
func (p *planner) networkID(name string) (string, error) {
	switch name {
	case "", "default", defaultName:
		return "", nil
	}
	n, err := p.network(name)
	if err != nil {
		return "", err
	}
	if n.Name == defaultName {
		return "", nil
	}
	return n.ID, nil
}

// add puts the container on a network, with what a client may say about it.
func (n *plannedNet) add(p *planner, id string, in *network.EndpointSettings) error {
	out := &network.EndpointSettings{}
	if in != nil {
		if in.IPAMConfig != nil && (in.IPAMConfig.IPv4Address.IsValid() || in.IPAMConfig.IPv6Address.IsValid() || len(in.IPAMConfig.LinkLocalIPs) > 0) {
			p.warn("a fixed address was dropped: containers are reachable by name")
		}
		if len(in.MacAddress) > 0 || len(in.DriverOpts) > 0 || in.GwPriority != 0 {
			p.warn("MAC address, driver options and priority of a network were dropped")
		}
		out.Aliases = slices.Clone(in.Aliases)
		links, err := p.links(in.Links)
		if err != nil {
			return err
		}
		out.Links = links
	}
	if n.endpoints == nil {
		n.endpoints = map[string]*network.EndpointSettings{}
	}
	n.endpoints[id] = out
	return nil
}

// links translates NAME[:ALIAS]: the Engine looks the first part up in the network's names, where the job's own name of a
// container is an alias.
func (p *planner) links(in []string) ([]string, error) {
	var out []string
	for _, l := range in {
		ref, alias, hasAlias := strings.Cut(l, ":")
		if !hasAlias {
			alias = strings.TrimPrefix(ref, "/")
		}
		// Old clients write /name:/container/alias.
		alias = alias[strings.LastIndex(alias, "/")+1:]
		if ref == "" || alias == "" || strings.Contains(alias, ":") {
			return nil, badRequest("bad format for links: %s", printable(l))
		}
		other, err := p.container(ref)
		if err != nil {
			return nil, err
		}
		name := other.Name
		if name == "" || other.Job {
			name = progress.ShortID(other.ID)
		}
		if name != alias {
			out = append(out, name+":"+alias)
		}
	}
	return out, nil
}

// finish makes sure of the default network and names all by ID.
func (n plannedNet) finish(host *container.HostConfig, m maker) (map[string]*network.EndpointSettings, error) {
	host.NetworkMode = container.NetworkMode(n.mode)
	var out map[string]*network.EndpointSettings
	for _, id := range slices.Sorted(maps.Keys(n.endpoints)) {
		e := n.endpoints[id]
		if id == "" {
			var err error
			if id, err = m.network(); err != nil {
				return nil, err
			}
			if n.mode == "" {
				host.NetworkMode = container.NetworkMode(id)
			}
		}
		if out == nil {
			out = map[string]*network.EndpointSettings{}
		}
		out[id] = e
	}
	return out, nil
}

// ports are what the client wants to be published. The Engine is not told: it would open them on the machine.
func (p *planner) ports(in *hostConfig, n plannedNet) ([]portRequest, error) {
	if strings.HasPrefix(n.mode, "container:") && len(in.PortBindings) > 0 {
		return nil, badRequest("conflicting options: port publishing and the container type network mode")
	}
	if !n.publishes() {
		return nil, nil
	}
	var out []portRequest
	for port, bindings := range in.PortBindings {
		if len(bindings) == 0 {
			bindings = []network.PortBinding{{}}
		}
		for _, b := range bindings {
			first, last, err := hostPorts(b.HostPort)
			if err != nil {
				return nil, err
			}
			request := portRequest{Port: port.Num(), Protocol: string(port.Proto()), HostPort: first, HostLast: last}
			if b.HostIP.IsValid() {
				request.HostIP = b.HostIP.String()
			}
			out = append(out, request)
		}
	}
	slices.SortFunc(out, comparePorts)
	return slices.CompactFunc(out, func(a, b portRequest) bool { return a.HostPort != 0 && sameButIP(a, b) }), nil
}

// withExposed adds the ports that a container exposes, at any port of the job.
func withExposed(requests []portRequest, exposed []string) []portRequest {
	out := slices.Clone(requests)
	for _, s := range slices.Sorted(slices.Values(exposed)) {
		port, err := network.ParsePort(s)
		protocol := string(port.Proto())
		if err != nil || protocol != "tcp" && protocol != "udp" {
			continue
		}
		if !slices.ContainsFunc(out, func(r portRequest) bool { return r.Port == port.Num() && r.Protocol == protocol }) {
			out = append(out, portRequest{Port: port.Num(), Protocol: protocol})
		}
	}
	return out
}

// sameButIP: the same port at two addresses, as compose and clients with IPv6 ask for, is opened once.
func sameButIP(a, b portRequest) bool {
	return a.Port == b.Port && a.Protocol == b.Protocol && a.HostPort == b.HostPort && a.HostLast == b.HostLast
}

func comparePorts(a, b portRequest) int {
	if c := int(a.Port) - int(b.Port); c != 0 {
		return c
	}
	if c := strings.Compare(a.Protocol, b.Protocol); c != 0 {
		return c
	}
	if c := int(a.HostPort) - int(b.HostPort); c != 0 {
		return c
	}
	return strings.Compare(a.HostIP, b.HostIP)
}
