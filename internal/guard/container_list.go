package guard

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/slipway-ci/slipway/internal/wire"
)

// containerFilters are the filters of a list of containers.
var containerFilters = []string{
	"ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "name", "network", "publish",
	"since", "status", "volume",
}

// containerList shows the job's containers only. The Engine is asked for all, because the job's own container has no
// label of this guard and a label proves nothing anyway.
func containerList(c *call) error {
	f, err := c.readFilters(containerFilters...)
	if err != nil {
		return err
	}
	limit, err := c.number("limit")
	if err != nil {
		return err
	}
	names, publish := f.Take("name"), f.Take("publish")
	q := c.pick("all", "size")
	if limit > 0 {
		q.Set("all", "1") // as the Engine understands a limit
	}
	nothing, err := c.engineFilters(f)
	if err != nil {
		return err
	}
	list := []map[string]any{}
	if !nothing {
		if list, err = c.ownContainers(f.Query(q)); err != nil {
			return err
		}
	}
	out := []any{}
	for _, doc := range list {
		if limit > 0 && len(out) == limit {
			break
		}
		c.showSummary(doc)
		if namesMatch(doc, names) && publishMatches(doc, publish) {
			out = append(out, doc)
		}
	}
	c.json(http.StatusOK, out)
	return nil
}

// ownContainers asks the Engine for containers and keeps the job's.
func (c *call) ownContainers(q url.Values) ([]map[string]any, error) {
	if err := c.waitPlace(); err != nil {
		return nil, err
	}
	var list []map[string]any
	if err := c.engine.getJSON(c.ctx, "/containers/json", q, &list); err != nil {
		return nil, c.written(err)
	}
	own := list[:0]
	for _, doc := range list {
		if id, _ := doc["Id"].(string); c.objects.ownsContainer(id) {
			own = append(own, doc)
		}
	}
	return own, nil
}

// engineFilters turns the job's names in filters into the Engine's. nothing says that no container can match.
func (c *call) engineFilters(f wire.Filters) (nothing bool, err error) {
	if ownLabels(f["label"]) {
		return true, nil
	}
	for _, key := range []string{"before", "since"} {
		if err := f.MapValues(key, func(v string) (string, error) {
			rec, err := c.objects.container(v)
			return rec.ID, err
		}); err != nil {
			return false, err
		}
	}
	_ = f.MapValues("network", func(v string) (string, error) {
		if n, err := c.objects.network(v); err == nil {
			return n.ID, nil
		}
		return v, nil
	})
	_ = f.MapValues("volume", func(v string) (string, error) {
		if strings.HasPrefix(v, "/") {
			return v, nil // the place where it is mounted
		}
		if name, err := c.findVolume(v); err == nil {
			return name, nil
		}
		return "/slipway/none", nil
	})
	err = f.MapValues("ancestor", func(v string) (string, error) {
		img, err := c.readImage(c.ctx, v)
		return img.ID, err
	})
	if isStatus(err, http.StatusNotFound) {
		return true, nil
	}
	return false, err
}

// namesMatch filters by name as the Engine does: a regular expression somewhere in one of the names.
func namesMatch(doc map[string]any, want []string) bool {
	if len(want) == 0 {
		return true
	}
	names, _ := doc["Names"].([]any)
	for _, w := range want {
		form, err := regexp.Compile(w)
		if err != nil {
			continue
		}
		for _, n := range names {
			if s, _ := n.(string); form.MatchString(s) || form.MatchString(strings.TrimPrefix(s, "/")) {
				return true
			}
		}
	}
	return false
}

// publishMatches filters by published port: 80, 80/tcp, 8000-8080.
func publishMatches(doc map[string]any, want []string) bool {
	if len(want) == 0 {
		return true
	}
	shown, _ := doc["Ports"].([]any)
	for _, w := range want {
		ports, protocol, ok := strings.Cut(w, "/")
		if !ok {
			protocol = "tcp"
		}
		first, last, ok := strings.Cut(ports, "-")
		if !ok {
			last = first
		}
		low, err1 := strconv.Atoi(first)
		high, err2 := strconv.Atoi(last)
		if err1 != nil || err2 != nil {
			continue
		}
		for _, p := range shown {
			p, _ := p.(map[string]any)
			port, err := strconv.Atoi(fmt.Sprint(p["PublicPort"]))
			if err == nil && port >= low && port <= high && p["Type"] == protocol {
				return true
			}
		}
	}
	return false
}

// showSummary turns the Engine's summary of a container into what the job gets to see.
func (c *call) showSummary(doc map[string]any) {
	id, _ := doc["Id"].(string)
	rec, err := c.objects.container(id)
	if err != nil {
		return // removed since
	}
	doc["Image"] = c.shownImage(rec, doc["Image"])
	doc["Ports"] = mergePorts(doc["Ports"], c.ports.of(id))
	c.showNetworks(doc["NetworkSettings"])
	c.showMode(doc["HostConfig"])
	c.showMounts(rec, doc["Mounts"])
	hideLabels(doc)
	c.unprefixAll(doc)
}

// shownImage is the name of a container's image as the job wrote it.
func (c *call) shownImage(rec containerRecord, engine any) any {
	if rec.Image != "" {
		return rec.Image
	}
	name, _ := engine.(string)
	if written := c.writtenName(name); written != "" {
		return written
	}
	return engine
}

// mergePorts adds the open ports to what the Engine knows, which are the exposed ones.
func mergePorts(engine any, open []openPort) []any {
	exposed, _ := engine.([]any)
	out := []any{}
	for _, e := range exposed {
		p, _ := e.(map[string]any)
		hidden := false
		for _, o := range open {
			hidden = hidden || p["Type"] == o.Protocol && fmt.Sprint(p["PrivatePort"]) == fmt.Sprint(o.Port)
		}
		if !hidden {
			out = append(out, e)
		}
	}
	for _, o := range open {
		out = append(out, map[string]any{
			"IP": "0.0.0.0", "PrivatePort": json.Number(fmt.Sprint(o.Port)), "PublicPort": json.Number(fmt.Sprint(o.Open)), "Type": o.Protocol,
		})
	}
	return out
}
