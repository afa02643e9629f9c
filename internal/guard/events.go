package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/wire"
)

// forwardStream relays a stream of JSON documents, one per line; edit changes each, and says whether the client sees it.
func (c *call) forwardStream(path string, q url.Values, edit func(doc map[string]any) bool) error {
	// Since 28 the Engine has several forms of streams to offer.
	resp, err := c.engine.do(c.ctx, http.MethodGet, path, q, http.Header{"Accept": {"application/json"}}, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		return c.written(readError(resp))
	}
	c.setHeaders()
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(resp.StatusCode)
	_ = http.NewResponseController(c.w).Flush()
	// An Engine that cannot get rid of an event waits a moment with each that follows, whosever it is.
	out := c.pacedAnswer()
	dec := json.NewDecoder(resp.Body)
	dec.UseNumber()
	for {
		var doc map[string]any
		if err := dec.Decode(&doc); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			panic(http.ErrAbortHandler) // the client must not take a cut stream for a whole one
		}
		if !edit(doc) {
			continue
		}
		data, err := json.Marshal(doc)
		if err != nil {
			return fmt.Errorf("%w: %w", errAnswered, err)
		}
		if _, err := out.Write(append(data, '\n')); err != nil {
			return fmt.Errorf("%w: %w", errAnswered, err)
		}
	}
}

// events shows what happens to the job's own objects.
func events(c *call) error {
	f, err := c.readFilters("container", "event", "image", "label", "network", "scope", "type", "volume",
		"builder", "config", "daemon", "node", "plugin", "secret", "service")
	if err != nil {
		return err
	}
	// The names in these are the job's: they are compared with what it is shown.
	names := wire.Filters{}
	for _, key := range []string{"container", "image", "network", "volume"} {
		if v := f.Take(key); len(v) > 0 {
			names[key] = v
		}
	}
	if ownLabels(f["label"]) {
		f["label"] = []string{"slipway"} // which nothing has
	}
	return c.forwardStream("/events", f.Query(c.pick("since", "until")), func(doc map[string]any) bool {
		return c.showEvent(doc) && eventMatches(doc, names)
	})
}

// showEvent shows an event as the job knows its objects, and reports whether it is the job's.
func (c *call) showEvent(doc map[string]any) bool {
	actor, _ := doc["Actor"].(map[string]any)
	id, _ := actor["ID"].(string)
	attributes, _ := actor["Attributes"].(map[string]any)
	switch doc["Type"] {
	case "container":
		if !c.awaitOwn(id, attributes) {
			return false
		}
		if image := c.objects.imageOf(id); image != "" {
			for k, d := range map[string]map[string]any{"from": doc, "image": attributes} {
				if _, ok := d[k]; ok {
					d[k] = image
				}
			}
		}
	case "network", "volume":
		if !c.awaitOwn(id, attributes) {
			return false
		}
		// Who joined it is told only if it is the job's too.
		if other, ok := attributes["container"].(string); ok && !c.objects.everOwn(other) {
			return false
		}
	case "image":
		if !c.objects.ownsImage(id) {
			return false
		}
		if name, ok := attributes["name"].(string); ok {
			attributes["name"] = c.writtenName(name)
		}
	default:
		return false
	}
	dropOwn(attributes)
	c.unprefixAll(doc)
	c.addOldFields(doc, id, attributes)
	return true
}

// addOldFields adds what events had before 1.52, for clients that are older than the Engine.
func (c *call) addOldFields(doc map[string]any, id string, attributes map[string]any) {
	if c.version.atLeast("1.52") || doc["Type"] != "container" && doc["Type"] != "image" {
		return
	}
	doc["status"], doc["id"] = doc["Action"], id
	if image, ok := attributes["image"]; ok {
		doc["from"] = image
	}
}

// createWait is how long an event waits for the guard to have recorded what the event tells of: the Engine may tell of a
// new object before it answers the call that made it.
const createWait = 2 * time.Second

// awaitOwn reports whether an object is or was the job's. What bears the marks of this guard is given the time to be
// recorded; the marks alone make nothing the job's.
func (c *call) awaitOwn(id string, attributes map[string]any) bool {
	if c.objects.everOwn(id) {
		return true
	}
	name, _ := attributes["name"].(string)
	if attributes[LabelGuard] != c.policy.Token && !strings.HasPrefix(name, c.policy.prefix()) && !strings.HasPrefix(id, c.policy.prefix()) {
		return false
	}
	ctx, cancel := context.WithTimeout(c.ctx, createWait)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !c.objects.everOwn(id) {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

// eventMatches filters by object as the Engine does: the beginning of an ID or of a name.
func eventMatches(doc map[string]any, names wire.Filters) bool {
	actor, _ := doc["Actor"].(map[string]any)
	id, _ := actor["ID"].(string)
	attributes, _ := actor["Attributes"].(map[string]any)
	name, _ := attributes["name"].(string)
	for key, want := range names {
		values := []string{id, name}
		if key == "image" {
			if image, _ := attributes["image"].(string); doc["Type"] == "container" {
				values = []string{image}
			}
		}
		if !anyPrefix(values, want) {
			return false
		}
	}
	return true
}

func anyPrefix(values, prefixes []string) bool {
	for _, v := range values {
		for _, p := range prefixes {
			if strings.HasPrefix(v, p) {
				return true
			}
		}
	}
	return false
}
