package guard

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/slipway-ci/slipway/internal/wire"
)

// defaultName is the name that the job knows its default network by.
const defaultName = "bridge"

var networkNameForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

// predefined are the Engine's own networks, which cannot be made or removed.
var predefined = []string{"bridge", "host", "none", "default"}

func networkCreate(c *call) error {
	var req network.CreateRequest
	if err := c.decode(&req, smallBody); err != nil {
		return err
	}
	switch {
	case slices.Contains(predefined, req.Name):
		return &apiError{http.StatusForbidden, fmt.Sprintf("operation is not permitted on predefined %s network ", req.Name)}
	case !networkNameForm.MatchString(req.Name):
		return badRequest("invalid network name %q: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, at most 128 of them", printable(req.Name))
	}
	if err := c.checkNetwork(&req); err != nil {
		return err
	}
	c.making.Lock()
	defer c.making.Unlock()
	for _, n := range c.objects.allNetworks() {
		if n.Name == req.Name {
			return &apiError{http.StatusConflict, fmt.Sprintf("network with name %s already exists", req.Name)}
		}
	}
	n := 0
	for _, other := range c.objects.allNetworks() {
		if !other.Given {
			n++
		}
	}
	if n >= c.policy.Limits.Networks {
		if err := c.refuse(deny("limit-networks", "remove networks that are not needed any more, or ask the machine's operator for a higher limit",
			"this job has %d networks already", n)); err != nil {
			return err
		}
	}
	id, err := c.makeNetwork(c.ctx, req.Name, req)
	if err != nil {
		return c.written(err)
	}
	c.json(http.StatusCreated, network.CreateResponse{ID: id})
	return nil
}

// checkNetwork refuses what reaches beyond the job and takes out what has no meaning on one machine. What is left may go
// to the Engine.
func (c *call) checkNetwork(req *network.CreateRequest) error {
	if req.Driver != "" && req.Driver != "bridge" {
		if err := c.refuse(deny("network-driver", "leave the driver out, or use bridge",
			"a network of the driver %s would reach beyond this job", printable(req.Driver))); err != nil {
			return err
		}
	}
	if i := req.IPAM; i != nil && (i.Driver != "" && i.Driver != "default" || len(i.Config) > 0 || len(i.Options) > 0) {
		if err := c.refuse(deny("network-ipam", "leave addresses to the Engine and use the containers' names",
			"a network with addresses of its own may hide those of others")); err != nil {
			return err
		}
	}
	if err := c.checkNetworkOptions(req); err != nil {
		return err
	}
	if !c.policy.Audit {
		req.Scope, req.ConfigFrom, req.EnableIPv4, req.IPAM = "", nil, nil, nil
	}
	req.Attachable = false // only a swarm knows what it means; compose always sets it
	return nil
}

// checkNetworkOptions refuses all options of a network but its MTU.
func (c *call) checkNetworkOptions(req *network.CreateRequest) error {
	for _, k := range slices.Sorted(maps.Keys(req.Options)) {
		if mtu, err := strconv.Atoi(req.Options[k]); k == networkMTU && err == nil && mtu >= 68 && mtu <= 65535 {
			continue
		}
		if err := c.refuse(deny("network-options", "leave it out: only com.docker.network.driver.mtu may be set",
			"the network option %s would change the machine", printable(k))); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		on   bool
		name string
	}{
		{req.Scope != "" && req.Scope != "local", "Scope"},
		{req.Ingress, "Ingress"},
		{req.ConfigOnly, "ConfigOnly"},
		{req.ConfigFrom != nil && req.ConfigFrom.Network != "", "ConfigFrom"},
		{req.EnableIPv6 != nil && *req.EnableIPv6, "EnableIPv6"},
		{req.EnableIPv4 != nil && !*req.EnableIPv4, "EnableIPv4=false"},
	} {
		if !f.on {
			continue
		}
		if err := c.refuse(deny("network-options", "leave it out", "a network with %s is not given to jobs", f.name)); err != nil {
			return err
		}
	}
	return nil
}

// makeNetwork makes a network, records it, and joins the job's container to it, so that the job reaches by name what is
// there. The caller holds the lock.
func (g *Guard) makeNetwork(ctx context.Context, name string, req network.CreateRequest) (string, error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	req.Name, req.Labels = g.policy.prefix()+name, g.policy.labels(req.Labels)
	if err := g.setMTU(ctx, &req); err != nil {
		return "", err
	}
	body := struct {
		network.CreateRequest
		CheckDuplicate bool // Engines before 25 make a second network of the name without it
	}{req, true}
	var made network.CreateResponse
	if err := g.engine.callJSON(ctx, http.MethodPost, "/networks/create", nil, body, &made); err != nil {
		if a, ok := err.(*apiError); ok && isPoolExhausted(a.Message) {
			return "", &apiError{http.StatusServiceUnavailable, "slipway: this machine has no address range left for another network: " +
				"the jobs that run now use them all; try again later, or let the machine's operator widen default-address-pools in the Engine's daemon.json"}
		}
		return "", err
	}
	g.objects.addNetwork(networkRecord{ID: made.ID, Name: name})
	err := g.joinJob(ctx, made.ID)
	if g.ctx.Err() != nil {
		err = errClosing
	}
	if err != nil {
		return "", joinErrors(err, g.removeNetwork(ctx, made.ID))
	}
	return made.ID, nil
}

const networkMTU = "com.docker.network.driver.mtu"

// setMTU lets a network have what packets the machine's own network takes: an Engine that was told (mtu in daemon.json)
// gives that to its own bridge only.
func (g *Guard) setMTU(ctx context.Context, req *network.CreateRequest) error {
	if req.Options[networkMTU] != "" {
		return nil
	}
	mtu := strconv.Itoa(g.policy.NetworkMTU)
	if g.policy.NetworkMTU == 0 {
		var bridge struct{ Options map[string]string }
		err := g.engine.callJSON(ctx, http.MethodGet, "/networks/bridge", nil, nil, &bridge)
		if err != nil && !isStatus(err, http.StatusNotFound) { // there is none with "bridge": "none"
			return err
		}
		if mtu = bridge.Options[networkMTU]; mtu == "" || mtu == "1500" {
			return nil
		}
	}
	req.Options = maps.Clone(req.Options)
	if req.Options == nil {
		req.Options = map[string]string{}
	}
	req.Options[networkMTU] = mtu
	return nil
}

// isPoolExhausted knows what Engines of all versions say when no address range is left.
func isPoolExhausted(message string) bool {
	return strings.Contains(message, "non-overlapping IPv4 address pool") || strings.Contains(message, "predefined address pools have been fully subnetted")
}

// joinJob connects the job's container with a network, if it has a network of its own.
func (g *Guard) joinJob(ctx context.Context, id string) error {
	job := g.objects.jobContainer()
	if job == "" {
		return nil
	}
	var c struct{ HostConfig struct{ NetworkMode string } }
	if err := g.engine.callJSON(ctx, http.MethodGet, "/containers/"+job+"/json", nil, nil, &c); err != nil {
		return fmt.Errorf("inspect the job's container: %w", err)
	}
	if m := c.HostConfig.NetworkMode; m == "none" || !ownStack(m) {
		return nil
	}
	return g.connect(ctx, id, job, &network.EndpointSettings{})
}

// ownStack reports whether a container of that network mode has network interfaces of its own.
func ownStack(mode string) bool { return mode != "host" && !strings.HasPrefix(mode, "container:") }

// connect joins a container to a network. endpoint holds nothing but aliases and links.
func (g *Guard) connect(ctx context.Context, id, container string, endpoint *network.EndpointSettings) error {
	if container == g.objects.jobContainer() && g.engine.version.atLeast("1.48") {
		// Never the way to the outside: what the job transfers there goes on. Older Engines decide by the network's name.
		endpoint.GwPriority = -1
	}
	body := network.ConnectRequest{Container: container, EndpointConfig: endpoint}
	err := g.engine.callJSON(ctx, http.MethodPost, "/networks/"+id+"/connect", nil, body, nil)
	if err == nil {
		g.ports.moved(container)
	}
	return err
}

func (g *Guard) disconnect(ctx context.Context, id, container string, force bool) error {
	body := network.DisconnectRequest{Container: container, Force: force}
	err := g.engine.callJSON(ctx, http.MethodPost, "/networks/"+id+"/disconnect", nil, body, nil)
	if err == nil {
		g.ports.moved(container)
	}
	return err
}

// defaultNetwork makes sure of the job's default network and returns its full ID. It is made when it is first needed, and
// the job's container joins it.
func (g *Guard) defaultNetwork(ctx context.Context) (string, error) {
	g.making.Lock()
	defer g.making.Unlock()
	if n, ok := g.madeDefault(); ok {
		return n.ID, nil
	}
	return g.makeNetwork(ctx, defaultName, network.CreateRequest{Driver: "bridge"})
}

func (g *Guard) madeDefault() (networkRecord, bool) {
	for _, n := range g.objects.allNetworks() {
		if n.Name == defaultName {
			return n, true
		}
	}
	return networkRecord{}, false
}

// removeNetwork removes an own network. The job's container leaves it first, for the Engine keeps a network that is in
// use; if others use it, the answer is the Engine's and nothing changes.
func (g *Guard) removeNetwork(ctx context.Context, id string) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	job := g.objects.jobContainer()
	left := false
	if job != "" {
		others, joined, err := g.users(ctx, id)
		if err != nil && !isStatus(err, http.StatusNotFound) {
			return err
		}
		if joined && others == 0 {
			if err := g.disconnect(ctx, id, job, true); err == nil {
				left = true
			}
		}
	}
	err := g.engine.callJSON(ctx, http.MethodDelete, "/networks/"+id, nil, nil, nil)
	if err == nil || isStatus(err, http.StatusNotFound) {
		g.objects.dropNetwork(id)
		return nil
	}
	if left { // a container joined at this moment
		err = joinErrors(err, g.joinJob(ctx, id))
	}
	return err
}

// users counts the running containers on a network without the job's own, which is on all of them.
func (g *Guard) users(ctx context.Context, id string) (others int, job bool, err error) {
	var n struct{ Containers map[string]any }
	if err := g.engine.callJSON(ctx, http.MethodGet, "/networks/"+id, nil, nil, &n); err != nil {
		return 0, false, err
	}
	_, job = n.Containers[g.objects.jobContainer()]
	others = len(n.Containers)
	if job {
		others--
	}
	return others, job, nil
}

func networkRemove(c *call) error {
	n, err := c.findNetwork(c.vars["id"])
	if err != nil {
		return err
	}
	if n.predefined() {
		return &apiError{http.StatusForbidden, n.Name + " is a pre-defined network and cannot be removed"}
	}
	if err := c.removeNetwork(c.ctx, n.ID); err != nil {
		return c.written(err)
	}
	c.empty(http.StatusNoContent)
	return nil
}

// findNetwork resolves a client's reference. The default network has its name before it is made; its record has no ID
// then.
func (c *call) findNetwork(ref string) (networkRecord, error) {
	n, err := c.objects.network(ref)
	if err != nil && (ref == defaultName || ref == c.pendingID()) {
		return networkRecord{Name: defaultName}, nil
	}
	return n, err
}

func networkInspect(c *call) error {
	n, err := c.findNetwork(c.vars["id"])
	if err != nil {
		return err
	}
	view, err := c.networkView(n)
	if err != nil {
		return c.written(err)
	}
	c.json(http.StatusOK, view)
	return nil
}

// networkView is a network as the job gets to see it, with the containers on it.
func (c *call) networkView(n networkRecord) (map[string]any, error) {
	if n.ID == "" {
		return c.pendingNetwork(), nil
	}
	var doc map[string]any
	if err := c.engine.callJSON(c.ctx, http.MethodGet, "/networks/"+n.ID, nil, nil, &doc); err != nil {
		return nil, err
	}
	containers, _ := doc["Containers"].(map[string]any)
	job := c.objects.jobContainer()
	if endpoint, ok := containers[job].(map[string]any); ok && n.Name == defaultName {
		if p, err := netip.ParsePrefix(fmt.Sprint(endpoint["IPv4Address"])); err == nil {
			setGateway(doc, p.Addr().String())
		}
	}
	for id := range containers {
		// The job's own is on all networks without having asked for it: clients would take them for in use.
		if !c.objects.ownsContainer(id) || id == job && !n.JobAsked {
			delete(containers, id)
		}
	}
	delete(doc, "Peers")
	delete(doc, "Services")
	c.visibleLabels(doc)
	return c.unprefixAll(doc).(map[string]any), nil
}

// setGateway shows the job's own address where clients look for the address that published ports are reachable at: on an
// Engine that is the bridge's gateway, here it is the job's container.
func setGateway(doc map[string]any, gateway string) {
	ipam, _ := doc["IPAM"].(map[string]any)
	configs, _ := ipam["Config"].([]any)
	for _, e := range configs {
		if m, ok := e.(map[string]any); ok && m["Gateway"] != nil {
			m["Gateway"] = gateway
		}
	}
}

// pendingID stands for the default network until it is made.
func (g *Guard) pendingID() string {
	sum := sha256.Sum256([]byte(g.policy.prefix() + defaultName))
	return hex.EncodeToString(sum[:])
}

// pendingNetwork is the view of the default network before the first container needs it.
func (g *Guard) pendingNetwork() map[string]any {
	return map[string]any{
		"Name": defaultName, "Id": g.pendingID(), "Created": "0001-01-01T00:00:00Z", "Scope": "local", "Driver": "bridge",
		"EnableIPv4": true, "EnableIPv6": false, "Internal": false, "Attachable": false, "Ingress": false, "ConfigOnly": false,
		"ConfigFrom": map[string]any{"Network": ""},
		"IPAM":       map[string]any{"Driver": "default", "Options": nil, "Config": []any{map[string]any{"Gateway": "127.0.0.1"}}},
		"Containers": map[string]any{}, "Options": map[string]any{}, "Labels": map[string]any{},
	}
}

var networkFilters = []string{"dangling", "driver", "id", "label", "name", "scope", "type"}

func networkList(c *call) error {
	f, err := c.readFilters(networkFilters...)
	if err != nil {
		return err
	}
	dangling, wantDangling, err := f.Boolean("dangling")
	if err != nil {
		return err
	}
	for _, v := range f["type"] {
		if v != "builtin" && v != "custom" {
			return badRequest("invalid filter: 'type'='%s'", printable(v))
		}
	}
	list := c.objects.allNetworks()
	if _, ok := c.madeDefault(); !ok {
		list = append(list, networkRecord{Name: defaultName})
	}
	out := []any{}
	for _, n := range list {
		view, err := c.networkView(n)
		if isStatus(err, http.StatusNotFound) {
			continue // removed at this moment
		}
		if err != nil {
			return c.written(err)
		}
		if !matchNetwork(f, view) || wantDangling && dangling != (!n.predefined() && unused(view)) {
			continue
		}
		view["Containers"] = map[string]any{} // a list has none
		out = append(out, view)
	}
	c.json(http.StatusOK, out)
	return nil
}

// unused reports whether nothing is on the network of a view.
func unused(view map[string]any) bool {
	containers, _ := view["Containers"].(map[string]any)
	return len(containers) == 0
}

func matchNetwork(f wire.Filters, view map[string]any) bool {
	text := func(key string) string { s, _ := view[key].(string); return s }
	labels, _ := view["Labels"].(map[string]any)
	kind := "custom"
	if text("Name") == defaultName {
		kind = "builtin"
	}
	return f.Match("name", text("Name")) && f.Match("id", text("Id")) && f.Exact("driver", text("Driver")) &&
		f.Exact("scope", text("Scope")) && f.Exact("type", kind) && f.Labels(labels)
}

func networkPrune(c *call) error {
	f, err := c.readFilters("label", "label!", "until")
	if err != nil {
		return err
	}
	until, hasUntil, err := f.Until(time.Now())
	if err != nil {
		return err
	}
	var removed []string
	for _, n := range c.objects.allNetworks() {
		if n.predefined() {
			continue
		}
		view, err := c.networkView(n)
		if err != nil {
			continue // removed at this moment
		}
		labels, _ := view["Labels"].(map[string]any)
		made, err := time.Parse(time.RFC3339Nano, fmt.Sprint(view["Created"]))
		if !f.Labels(labels) || !unused(view) || hasUntil && (err != nil || made.After(until)) {
			continue
		}
		if err := c.removeNetwork(c.ctx, n.ID); err == nil { // else a container joined at this moment
			removed = append(removed, n.Name)
		}
	}
	c.json(http.StatusOK, network.PruneReport{NetworksDeleted: removed})
	return nil
}

func networkConnect(c *call) error {
	var req network.ConnectRequest
	if err := c.decode(&req, smallBody); err != nil {
		return err
	}
	n, rec, err := c.networkAndContainer(req.Container)
	if err != nil {
		return err
	}
	if n.ID == "" {
		if n.ID, err = c.defaultNetwork(c.ctx); err != nil {
			return c.written(err)
		}
	}
	if n.Given && rec.Job { // it must keep its way to the outside
		return &apiError{http.StatusForbidden, fmt.Sprintf("endpoint with name %s already exists in network %s", rec.Name, n.Name)}
	}
	endpoint, err := c.endpoint(req.EndpointConfig, rec.Name)
	if err != nil {
		return err
	}
	ctx, cancel := detached(c.ctx)
	defer cancel()
	if rec.Job && !n.JobAsked {
		// It is there already, if it has a network at all, but not by the names that the job gives it now.
		if _, joined, err := c.users(ctx, n.ID); err == nil && joined {
			if err := c.disconnect(ctx, n.ID, rec.ID, true); err != nil {
				return c.written(err)
			}
		}
	}
	if err := c.connect(ctx, n.ID, rec.ID, endpoint); err != nil {
		return c.written(err)
	}
	if rec.Job {
		c.objects.jobAsked(n.ID, true)
	}
	c.empty(http.StatusOK)
	return nil
}

// endpoint is what a container's connection with an own network may have of what the client wrote. The name as the job
// wrote it becomes an alias, for the Engine knows the container by another.
func (c *call) endpoint(client *network.EndpointSettings, name string) (*network.EndpointSettings, error) {
	var n plannedNet
	if err := n.add(c.planner(c.ctx), "", client); err != nil {
		return nil, err
	}
	out := n.endpoints[""]
	if name != "" && !slices.Contains(out.Aliases, name) {
		out.Aliases = append(out.Aliases, name)
	}
	return out, nil
}

func networkDisconnect(c *call) error {
	var req network.DisconnectRequest
	if err := c.decode(&req, smallBody); err != nil {
		return err
	}
	n, rec, err := c.networkAndContainer(req.Container)
	if err != nil {
		return err
	}
	if n.ID == "" {
		return &apiError{http.StatusInternalServerError, fmt.Sprintf("container %s is not connected to network %s", req.Container, n.Name)}
	}
	if n.Given && rec.Job {
		return &apiError{http.StatusForbidden, "the job's own container stays on the network that it has with its services"}
	}
	ctx, cancel := detached(c.ctx)
	defer cancel()
	if err := c.disconnect(ctx, n.ID, rec.ID, req.Force); err != nil {
		return c.written(err)
	}
	if rec.Job {
		c.objects.jobAsked(n.ID, false)
	}
	c.empty(http.StatusOK)
	return nil
}

// networkAndContainer resolves what connect and disconnect name; both must be the job's own.
func (c *call) networkAndContainer(container string) (networkRecord, containerRecord, error) {
	n, err := c.findNetwork(c.vars["id"])
	if err != nil {
		return n, containerRecord{}, err
	}
	rec, err := c.objects.container(container)
	return n, rec, err
}
