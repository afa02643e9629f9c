package guard

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"
)

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
