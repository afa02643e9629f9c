package guard

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/slipway-ci/slipway/internal/mishap"
	"github.com/slipway-ci/slipway/internal/wire"
)

// watch follows which containers of the job the Engine removes by itself (docker run --rm): their records and pins go, and
// their names are free. It begins with the first container that is started.
func (g *Guard) watch() {
	g.watching.Do(func() {
		since := time.Now()
		g.calls.Go(func() {
			for g.ctx.Err() == nil {
				since = g.follow(since)
				select { // the Engine is being restarted
				case <-g.ctx.Done():
				case <-time.After(time.Second):
				}
			}
		})
	})
}

// follow reads events until the stream ends, and returns from when on they are still to be read.
func (g *Guard) follow(since time.Time) (next time.Time) {
	var err error // it is logged, and the next try is soon
	defer mishap.Catch(g.log, "the Engine's events", &err)
	next = since
	if now := time.Now().Round(0); since.Round(0).After(now) { // the clock was set back: what the Engine says from now on is new
		since = now
	}
	q := wire.Filters{"type": {"container"}, "event": {"destroy"}, "label": {LabelGuard + "=" + g.policy.Token}}.
		Query(url.Values{"since": {strconv.FormatInt(since.Unix(), 10)}})
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
			Actor struct{ ID string }
			Time  int64
		}
		if err := dec.Decode(&e); err != nil {
			return since
		}
		since = time.Unix(e.Time, 0)
		if g.objects.ownsContainer(e.Actor.ID) && e.Actor.ID != g.objects.jobContainer() {
			g.forget(e.Actor.ID)
		}
	}
}
