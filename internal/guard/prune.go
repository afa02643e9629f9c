package guard

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// containerPrune removes the job's stopped containers. The Engine is not asked to prune: whatever filter it were given,
// it would look at all containers of the machine.
func containerPrune(c *call) error {
	f, err := c.readFilters("until", "label", "label!")
	if err != nil {
		return err
	}
	before, err := untilTime(f["until"], time.Now())
	if err != nil {
		return err
	}
	list, err := c.ownContainers(filters{"status": {"created", "exited", "dead"}}.query(url.Values{"all": {"1"}, "size": {"1"}}))
	if err != nil {
		return err
	}
	deleted, reclaimed := []string{}, int64(0)
	for _, doc := range list {
		id, _ := doc["Id"].(string)
		if id == c.objects.jobContainer() || !prunable(doc, f, before) {
			continue
		}
		ctx, cancel := detached(c.ctx)
		err := c.engine.callJSON(ctx, http.MethodDelete, "/containers/"+id, nil, nil, nil)
		cancel()
		if err != nil {
			c.log.Debug("not pruned", "container", id, "error", err) // started since, or being removed
			continue
		}
		c.forget(id)
		deleted = append(deleted, id)
		reclaimed += whole(doc["SizeRw"])
	}
	c.json(http.StatusOK, map[string]any{"ContainersDeleted": deleted, "SpaceReclaimed": reclaimed})
	return nil
}

func prunable(doc map[string]any, f filters, before time.Time) bool {
	labels, _ := doc["Labels"].(map[string]any)
	dropOwn(labels)
	if !hasLabels(labels, f["label"]) || !before.IsZero() && !time.Unix(whole(doc["Created"]), 0).Before(before) {
		return false
	}
	for _, not := range f["label!"] {
		if hasLabel(labels, not) {
			return false
		}
	}
	return true
}

// whole is a number of a document, 0 if it is none.
func whole(v any) int64 {
	n, _ := v.(json.Number)
	i, _ := n.Int64()
	return i
}

// untilTime reads the filter "until": a duration before now, a date, or seconds since 1970.
func untilTime(values []string, now time.Time) (time.Time, error) {
	if len(values) == 0 {
		return time.Time{}, nil
	}
	if len(values) > 1 {
		return time.Time{}, badRequest("more than one until filter specified")
	}
	v := values[0]
	if d, err := time.ParseDuration(v); err == nil {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02Z07:00", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, v, time.Local); err == nil {
			return t, nil
		}
	}
	if seconds, err := strconv.ParseFloat(v, 64); err == nil {
		return time.Unix(0, int64(seconds*1e9)), nil
	}
	return time.Time{}, badRequest("%s", fmt.Sprintf("slipway: until=%q is no time", printable(v)))
}
