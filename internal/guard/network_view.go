package guard

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/moby/moby/api/types/network"

	"github.com/slipway-ci/slipway/internal/wire"
)

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
