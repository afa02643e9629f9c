package guard

import (
	"context"
	"fmt"
	"net/url"
	"sync"
)

// room is how many containers and volumes the job may still have.
type room struct {
	g *Guard

	mu     sync.Mutex
	coming int // containers that are being made
}

// reserve counts a container that is being made, and says if there may be none more. free ends that: by then it has its
// record, or failed.
func (r *room) reserve(ctx context.Context, planned *plan) (free func(), denied *Denial, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if denied = r.full(planned); denied != nil {
		// Containers that removed themselves have their records still, and so have their volumes.
		r.mu.Unlock()
		err = r.g.forgetGone(ctx)
		r.mu.Lock()
		denied = r.full(planned)
	}
	r.coming++
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.coming--
	}), denied, err
}

// full says which limit of the job is reached. The caller holds the lock.
func (r *room) full(planned *plan) *Denial {
	limits := r.g.policy.Limits
	if n := len(r.g.jobVolumes()); n >= limits.Volumes && planned.mayHaveVolumes() {
		return deny("limit-volumes", "remove volumes that are not needed any more (docker volume rm, docker rm --volumes)", "this job has %d volumes already", n)
	}
	if r.g.objects.countContainers()+r.coming >= limits.Containers {
		return deny("limit-containers", "remove containers that are not needed any more (docker rm, or run with --rm)", "a job may have %d containers at once", limits.Containers)
	}
	return nil
}

// forgetGone drops the records and pins of containers that the Engine does not have any more.
func (g *Guard) forgetGone(ctx context.Context) error {
	known := g.objects.ids() // before the question: what comes later is not meant
	var list []struct {
		ID string `json:"Id"`
	}
	query := url.Values{"all": {"1"}, "filters": {`{"label":["` + LabelGuard + "=" + g.policy.Token + `"]}`}}
	if err := g.engine.getJSON(ctx, "/containers/json", query, &list); err != nil {
		return fmt.Errorf("look which containers are there: %w", err)
	}
	there := map[string]bool{g.objects.jobContainer(): true}
	for _, c := range list {
		there[c.ID] = true
	}
	for _, id := range known {
		if !there[id] {
			g.forget(id)
		}
	}
	return g.forgetGoneVolumes(ctx)
}

// forgetGoneVolumes does the same for volumes that went with their container. Those that an image asked for have no
// label to list them by.
func (g *Guard) forgetGoneVolumes(ctx context.Context) error {
	known := g.objects.allVolumes()
	var list struct{ Volumes []struct{ Name string } }
	if err := g.engine.getJSON(ctx, "/volumes", nil, &list); err != nil {
		return fmt.Errorf("look which volumes are there: %w", err)
	}
	there := map[string]bool{}
	for _, v := range list.Volumes {
		there[v.Name] = true
	}
	for _, name := range known {
		if !there[name] {
			g.objects.dropVolume(name)
		}
	}
	return nil
}
