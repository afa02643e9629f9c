package guard

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// watch follows how containers of the job end by themselves: their ports close, and the record of one that the Engine
// removes goes, so that its name means nothing any more. It begins with the first container that is started.
func (g *Guard) watch() {
	g.watching.Do(func() {
		since := time.Now()
		g.calls.Add(1)
		go func() {
			defer g.calls.Done()
			for g.ctx.Err() == nil {
				since = g.follow(since)
				select { // the Engine is being restarted
				case <-g.ctx.Done():
				case <-time.After(time.Second):
				}
			}
		}()
	})
}

// follow reads events until the stream ends, and returns from when on they are still to be read.
func (g *Guard) follow(since time.Time) time.Time {
	q := filters{"type": {"container"}, "event": {"die", "destroy"}, "label": {LabelGuard + "=" + g.policy.Token}}.
		query(url.Values{"since": {strconv.FormatInt(since.Unix(), 10)}})
	resp, err := g.engine.do(g.ctx, http.MethodGet, "/events", q, http.Header{"Accept": {"application/json"}}, nil)
	if err != nil {
		return since
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return since
	}
	dec := json.NewDecoder(resp.Body)
	for {
		var e struct {
			Action string
			Actor  struct{ ID string }
			Time   int64
		}
		if err := dec.Decode(&e); err != nil {
			return since
		}
		since = time.Unix(e.Time, 0)
		if !g.objects.ownsContainer(e.Actor.ID) || e.Actor.ID == g.objects.jobContainer() {
			continue
		}
		if e.Action == "destroy" {
			g.forget(e.Actor.ID)
			continue
		}
		g.ended(e.Actor.ID)
	}
}

// ended closes the ports of a container that does not run any more; it may have been started again meanwhile.
func (g *Guard) ended(id string) {
	if g.running(id) {
		return
	}
	g.ports.stopped(id)
	if g.running(id) {
		if err := g.ports.started(g.ctx, id); err != nil {
			g.log.Warn("ports are not open", "container", id, "error", err)
		}
	}
}

func (g *Guard) running(id string) bool {
	var doc inspected
	return g.engine.getJSON(g.ctx, "/containers/"+id+"/json", nil, &doc) == nil && doc.State.Running
}
