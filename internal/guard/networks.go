package guard

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"
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
