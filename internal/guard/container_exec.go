package guard

import (
	"net/http"
	"net/url"
	"time"

	"github.com/moby/moby/api/types/container"
)

func execCreate(c *call) error {
	rec, path, err := c.ownPath("/exec")
	if err != nil {
		return err
	}
	var body container.ExecCreateRequest
	if err := c.decode(&body, execBody); err != nil {
		return err
	}
	if body.Privileged {
		if err := c.refuse(deny("exec-privileged", "leave --privileged out", "a privileged exec has the whole machine")); err != nil {
			return err
		}
	}
	ctx, cancel := c.lasting()
	defer cancel()
	if err := c.roomForExec(rec); err != nil {
		return err
	}
	var made container.ExecCreateResponse
	if err := c.engine.callJSON(ctx, http.MethodPost, path, nil, body, &made); err != nil {
		return c.written(err)
	}
	c.objects.addExec(made.ID, rec.ID)
	c.json(http.StatusCreated, made)
	return nil
}

// execKept is how long a finished exec can be asked for its exit code.
const execKept = 5 * time.Minute

// roomForExec refuses execs beyond the job's limit. Only when the record is full, the Engine is asked which are over.
func (c *call) roomForExec(rec containerRecord) error {
	if c.objects.liveExecs() < c.policy.Limits.Execs {
		return nil
	}
	for _, id := range c.objects.unfinishedExecs() {
		var doc struct {
			Running  bool
			ExitCode *int
		}
		err := c.engine.getJSON(c.ctx, "/exec/"+id+"/json", nil, &doc)
		switch {
		case isStatus(err, http.StatusNotFound):
			c.objects.dropExec(id)
		case err == nil && !doc.Running && doc.ExitCode != nil:
			c.objects.endExec(id, time.Now())
		}
	}
	c.objects.dropOldExecs(time.Now().Add(-execKept))
	if c.objects.liveExecs() < c.policy.Limits.Execs {
		return nil
	}
	return c.refuse(deny("limit-execs", "let some end first", "the job has %d execs at work already", c.policy.Limits.Execs))
}

func execInspect(c *call) error {
	owner, err := c.objects.exec(c.vars["id"])
	if err != nil {
		return err
	}
	return c.forwardJSON(http.MethodGet, "/exec/"+c.vars["id"]+"/json", nil, nil, func(doc any) (any, error) {
		if d, ok := doc.(map[string]any); ok && d["ContainerID"] != owner {
			return nil, noExec(c.vars["id"])
		}
		return c.unprefixAll(doc), nil
	})
}

func execStart(c *call) error {
	if _, err := c.objects.exec(c.vars["id"]); err != nil {
		return err
	}
	var body container.ExecStartRequest
	if err := c.decode(&body, smallBody); err != nil {
		return err
	}
	path := "/exec/" + c.vars["id"] + "/start"
	if body.Detach {
		return c.forward(http.MethodPost, path, nil, body)
	}
	return c.hijack(path, nil, body)
}

func execResize(c *call) error {
	if _, err := c.objects.exec(c.vars["id"]); err != nil {
		return err
	}
	q, err := c.numbers("h", "w")
	if err != nil {
		return err
	}
	return c.forward(http.MethodPost, "/exec/"+url.PathEscape(c.vars["id"])+"/resize", q, nil)
}
