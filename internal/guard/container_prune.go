package guard

import (
	"encoding/json"
	"net/http"
	"net/url"
	"time"

	"github.com/slipway-ci/slipway/internal/wire"
)

// containerPrune removes the job's stopped containers. The Engine is not asked to prune: whatever filter it were given,
// it would look at all containers of the machine.
func containerPrune(c *call) error {
	f, err := c.readFilters("until", "label", "label!")
	if err != nil {
		return err
	}
	before, limited, err := f.Until(time.Now())
	if err != nil {
		return err
	}
	list, err := c.ownContainers(wire.Filters{"status": {"created", "exited", "dead"}}.Query(url.Values{"all": {"1"}, "size": {"1"}}))
	if err != nil {
		return err
	}
	deleted, reclaimed := []string{}, int64(0)
	for _, doc := range list {
		id, _ := doc["Id"].(string)
		if id == c.objects.jobContainer() || limited && !time.Unix(whole(doc["Created"]), 0).Before(before) || !f.Labels(c.visibleLabels(doc)) {
			continue
		}
		ctx, cancel := c.lasting()
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

// whole is a number of a document, 0 if it is none.
func whole(v any) int64 {
	n, _ := v.(json.Number)
	i, _ := n.Int64()
	return i
}
