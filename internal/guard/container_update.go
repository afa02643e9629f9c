package guard

import (
	"net/http"

	"github.com/moby/moby/api/types/container"
)

// containerUpdate changes a container's limits, within the job's.
func containerUpdate(c *call) error {
	var in updateRequest
	if err := c.decode(&in, smallBody); err != nil {
		return err
	}
	rec, err := c.objects.container(c.vars["id"])
	if err != nil {
		return err
	}
	if rec.Job {
		err := c.refuse(deny("job-container", "update a container that the job made", "the limits of the job's own container are the runner's"))
		if err != nil {
			return err
		}
	}
	p := c.planner(c.ctx)
	out := p.update(in)
	return c.forwardJSON(http.MethodPost, "/containers/"+rec.ID+"/update", nil, out, func(doc any) (any, error) {
		m, ok := doc.(map[string]any)
		if !ok {
			return doc, nil
		}
		warnings, _ := m["Warnings"].([]any)
		for _, w := range p.warnings {
			warnings = append(warnings, w)
		}
		m["Warnings"] = warnings
		return c.unprefixAll(doc), nil
	})
}

// updateRequest is what clients of all versions send.
type updateRequest struct {
	container.UpdateConfig
	KernelMemory, KernelMemoryTCP int64
}

// update decides about a change of limits. Devices, cgroups and disks are not among what can be changed.
func (p *planner) update(in updateRequest) container.UpdateConfig {
	out := container.UpdateConfig{Resources: p.changes(in.Resources)}
	out.Ulimits = nil // the Engine does not change them
	if in.RestartPolicy.Name != "" {
		out.RestartPolicy = p.restart(in.RestartPolicy)
	}
	return out
}
