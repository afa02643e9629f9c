package guard

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

func containerInspect(c *call) error {
	rec, path, err := c.ownPath("/json")
	if err != nil {
		return err
	}
	return c.forwardJSON(http.MethodGet, path, c.pick("size"), nil, func(doc any) (any, error) {
		return c.showContainer(rec, doc), nil
	})
}

// machinePaths are fields of an inspected container that tell about the machine and mean nothing to the job.
var machinePaths = []string{"ResolvConfPath", "HostnamePath", "HostsPath", "LogPath", "AppArmorProfile", "MountLabel", "ProcessLabel"}

// showContainer turns the Engine's description of an own container into what the job gets to see: its own names, images
// as it wrote them, sources as it knows them, and nothing of the machine.
func (c *call) showContainer(rec containerRecord, doc any) any {
	d, ok := doc.(map[string]any)
	if !ok {
		return doc
	}
	for _, k := range machinePaths {
		if _, ok := d[k]; ok {
			d[k] = ""
		}
	}
	if g, ok := d["GraphDriver"].(map[string]any); ok {
		g["Data"] = map[string]any{}
	}
	if s, ok := d["Storage"].(map[string]any); ok { // of Engines with containerd's image store
		clear(s)
	}
	if config, ok := d["Config"].(map[string]any); ok {
		config["Image"] = c.shownImage(rec, config["Image"])
	}
	if host, ok := d["HostConfig"].(map[string]any); ok {
		host["CgroupParent"] = ""
		host["PortBindings"] = portBindings(rec.Ports)
		c.showMode(host)
		c.showBinds(rec, host["Binds"])
		c.showMounts(rec, host["Mounts"])
	}
	c.showMounts(rec, d["Mounts"])
	if n, ok := d["NetworkSettings"].(map[string]any); ok {
		for _, k := range []string{"SandboxKey", "SandboxID"} {
			if _, ok := n[k]; ok {
				n[k] = ""
			}
		}
		n["Ports"] = shownPorts(n["Ports"], c.ports.of(rec.ID))
		c.showNetworks(n)
		if !c.version.atLeast("1.52") {
			addDefaultEndpoint(n)
		}
	}
	hideLabels(d)
	return c.unprefixAll(d)
}

// portBindings are the ports that the job asked for, as it asked.
func portBindings(ports []portRequest) map[string]any {
	out := map[string]any{}
	for _, p := range ports {
		key := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		port := ""
		if p.HostPort != 0 {
			port = strconv.Itoa(int(p.HostPort))
		}
		list, _ := out[key].([]any)
		out[key] = append(list, map[string]any{"HostIp": p.HostIP, "HostPort": port})
	}
	return out
}

// shownPorts are the exposed ports as the Engine has them, and the open ones.
func shownPorts(engine any, open []openPort) map[string]any {
	out := map[string]any{}
	exposed, _ := engine.(map[string]any)
	for k := range exposed {
		out[k] = nil
	}
	for _, o := range open {
		key := fmt.Sprintf("%d/%s", o.Port, o.Protocol)
		list, _ := out[key].([]any)
		out[key] = append(list, map[string]any{"HostIp": "0.0.0.0", "HostPort": strconv.Itoa(int(o.Open))})
	}
	return out
}

// showNetworks names a container's networks as the job knows them. The network that the runner put the job's container
// on is shown under its own name, unless the job has one of that name.
func (c *call) showNetworks(settings any) {
	s, _ := settings.(map[string]any)
	networks, ok := s["Networks"].(map[string]any)
	if !ok {
		return
	}
	out := map[string]any{}
	for name, e := range networks {
		if !strings.HasPrefix(name, c.policy.prefix()) {
			out[name] = e
		}
	}
	for name, e := range networks {
		if short, ok := strings.CutPrefix(name, c.policy.prefix()); ok {
			out[short] = e
		}
	}
	s["Networks"] = out
}

// addDefaultEndpoint repeats the addresses on the default network where scripts read them ({{.NetworkSettings.IPAddress}}):
// the Engine has them there for its own default network only, and not at all since 1.52.
func addDefaultEndpoint(settings map[string]any) {
	networks, _ := settings["Networks"].(map[string]any)
	endpoint, _ := networks["bridge"].(map[string]any)
	for k, none := range map[string]any{
		"EndpointID": "", "Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "IPAddress": "", "IPPrefixLen": 0,
		"IPv6Gateway": "", "MacAddress": "",
	} {
		if v, ok := endpoint[k]; ok {
			settings[k] = v
		} else if _, ok := settings[k]; !ok {
			settings[k] = none
		}
	}
}

// showMode names the network of HostConfig.NetworkMode as the job wrote it.
func (c *call) showMode(hostConfig any) {
	h, _ := hostConfig.(map[string]any)
	mode, _ := h["NetworkMode"].(string)
	for _, n := range c.objects.allNetworks() {
		if mode == n.ID || mode == c.policy.prefix()+n.Name {
			mode = n.Name
			if mode == "bridge" {
				mode = "default" // what the client had sent for it
			}
			h["NetworkMode"] = mode
			return
		}
	}
}

// showBinds translates the sources of "source:destination:mode".
func (c *call) showBinds(rec containerRecord, binds any) {
	list, _ := binds.([]any)
	for i, b := range list {
		bind, _ := b.(string)
		source, rest, ok := strings.Cut(bind, ":")
		if !ok || !strings.HasPrefix(source, "/") {
			continue
		}
		destination, _, _ := strings.Cut(rest, ":")
		list[i] = c.shownSource(rec, source, destination) + ":" + rest
	}
}

// showMounts translates the sources of mounts, in the forms of HostConfig.Mounts (Target) and Mounts (Destination).
func (c *call) showMounts(rec containerRecord, mounts any) {
	list, _ := mounts.([]any)
	for _, m := range list {
		m, _ := m.(map[string]any)
		source, _ := m["Source"].(string)
		destination, _ := m["Destination"].(string)
		if target, ok := m["Target"].(string); ok {
			destination = target
		}
		if written, ok := rec.Sources[destination]; ok {
			showShared(m, written)
			continue
		}
		if _, ok := c.jobPath(source); m["Type"] == "bind" && strings.HasPrefix(source, "/") || ok {
			m["Source"] = c.shownSource(rec, source, destination)
		}
	}
}

// showShared shows what the job shared as the bind that it asked for, also where it is a part of a volume on the Engine.
func showShared(m map[string]any, written string) {
	m["Source"] = written
	if m["Type"] == "volume" {
		m["Type"] = "bind"
		for _, k := range []string{"Name", "Driver", "VolumeOptions"} {
			delete(m, k)
		}
	}
}

// shownSource is the source of a bind as the job knows it. Where the job knows none (a folder of the machine that its
// container has from the runner), it is the place where the container has it.
func (c *call) shownSource(rec containerRecord, source, destination string) string {
	if written, ok := rec.Sources[destination]; ok {
		return written
	}
	for pin, written := range rec.Pins {
		if rest, ok := below(source, pin); ok {
			return written + rest
		}
	}
	if source == c.Socket() {
		return "/var/run/docker.sock"
	}
	if shown, ok := c.jobPath(source); ok {
		return shown
	}
	return destination
}

// jobPath is the path in the job's container of a path of the machine that is mounted there.
func (g *Guard) jobPath(host string) (string, bool) {
	best, shown := -1, ""
	for _, m := range g.policy.Mounts {
		if rest, ok := below(host, m.Source); ok && len(m.Source) > best {
			best, shown = len(m.Source), strings.TrimSuffix(m.Destination, "/")+rest
		}
	}
	return shown, best >= 0
}

// below cuts a folder off a path in it; the rest is "" or begins with a slash.
func below(path, dir string) (string, bool) {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(dir, "/"))
	return rest, ok && (rest == "" || rest[0] == '/')
}
