package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slipway-ci/slipway/internal/mishap"
	"github.com/slipway-ci/slipway/internal/wire"
)

// cleanUp removes everything that the job made: by the record, and then by label whatever the record may lack.
func (g *Guard) cleanUp(ctx context.Context) error {
	network, _ := g.madeDefault()
	s := &sweeper{engine: g.engine, log: g.log, keep: g.objects.jobContainer(), own: func(id string) bool { return id == network.ID || g.internalVolume(id) }}
	marked := LabelGuard + "=" + g.policy.Token
	mine := func(labels map[string]string) bool { return labels[LabelGuard] == g.policy.Token }
	var networks []string
	for _, n := range g.objects.allNetworks() {
		if !n.Given {
			networks = append(networks, n.ID)
		}
	}
	// Containers first, also those that only the label tells of: they hold the rest.
	lost, err := s.list(ctx, "/containers/json", marked, mine)
	err = errors.Join(err,
		s.remove(ctx, union(g.objects.ids(), lost), networks, g.objects.allVolumes()),
		s.byLabel(ctx, mine, marked),
		s.images(ctx, g),
		g.dropAliases(ctx),
	)
	if line := s.summary(); line != "" {
		g.report("slipway: removed what the job left: " + line)
	}
	return err
}

// union is a and what is only in b.
func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, v := range b {
		if !slices.Contains(a, v) {
			out = append(out, v)
		}
	}
	return out
}

// Sweep removes containers, networks and volumes of guards that are gone: those with a label of a guard that mine
// reports to be of a dead instance.
func Sweep(ctx context.Context, dial func(ctx context.Context) (net.Conn, error), mine func(labels map[string]string) bool, log *slog.Logger) error {
	engine, err := newUpstream(ctx, dial)
	if err != nil {
		return err
	}
	defer engine.close()
	s := &sweeper{engine: engine, log: log}
	err = s.byLabel(ctx, mine, LabelGuard)
	if line := s.summary(); line != "" {
		log.Info("removed what jobs of an earlier run left", "what", line)
	}
	return err
}

// sweeper removes objects and counts them.
type sweeper struct {
	engine *upstream
	log    *slog.Logger
	keep   string               // full ID of a container that stays
	own    func(id string) bool // whether the guard made a network or a volume unasked: not to be told of; nil = it made none

	mu     sync.Mutex
	counts [5]int // containers, networks, volumes, images, and what is not told
}

func (s *sweeper) count(kind int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[kind]++
}

// kind is what a removed object counts as.
func (s *sweeper) kind(id string, kind int) int {
	if s.own != nil && s.own(id) {
		return 4
	}
	return kind
}

// summary is "2 containers, 1 network", "" for nothing.
func (s *sweeper) summary() string {
	var parts []string
	for i, what := range []string{"container", "network", "volume", "image"} {
		switch n := s.counts[i]; {
		case n == 1:
			parts = append(parts, "1 "+what)
		case n > 1:
			parts = append(parts, fmt.Sprintf("%d %ss", n, what))
		}
	}
	return strings.Join(parts, ", ")
}

// remove removes containers at once, and then what they held.
func (s *sweeper) remove(ctx context.Context, containers, networks, volumes []string) error {
	err := s.each(containers, func(id string) error { return s.container(ctx, id) })
	return errors.Join(err,
		s.each(networks, func(id string) error { return s.network(ctx, id) }),
		s.each(volumes, func(name string) error { return s.volume(ctx, name) }))
}

// sweepWidth bounds how many removals are asked for at once.
const sweepWidth = 16

// each does something for all of a list, in parallel.
func (s *sweeper) each(list []string, do func(string) error) error {
	errs := make([]error, len(list))
	slots := make(chan struct{}, sweepWidth)
	var wg sync.WaitGroup
	for i, v := range list {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			defer mishap.Catch(s.log, "the removal of what jobs made", &errs[i])
			errs[i] = do(v)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// container kills and removes a container with its nameless volumes.
func (s *sweeper) container(ctx context.Context, id string) error {
	if id == s.keep {
		return nil
	}
	path := "/containers/" + id
	return s.retry(ctx, "container", 0, func() error {
		err := s.engine.callJSON(ctx, http.MethodDelete, path, url.Values{"force": {"1"}, "v": {"1"}}, nil, nil)
		if err != nil && !isStatus(err, http.StatusNotFound) {
			// It may be paused, which some Engines do not kill.
			_ = s.engine.callJSON(ctx, http.MethodPost, path+"/unpause", nil, nil, nil)
		}
		return err
	})
}

// network removes a network, and first those from it who are left there: the job's container, and what others joined to it.
func (s *sweeper) network(ctx context.Context, id string) error {
	return s.retry(ctx, "network", s.kind(id, 1), func() error {
		var n struct{ Containers map[string]any }
		if err := s.engine.getJSON(ctx, "/networks/"+id, nil, &n); err != nil {
			return err
		}
		for container := range n.Containers {
			body := map[string]any{"Container": container, "Force": true}
			_ = s.engine.callJSON(ctx, http.MethodPost, "/networks/"+id+"/disconnect", nil, body, nil) // it may have ended
		}
		return s.engine.callJSON(ctx, http.MethodDelete, "/networks/"+id, nil, nil, nil)
	})
}

func (s *sweeper) volume(ctx context.Context, name string) error {
	return s.retry(ctx, "volume", s.kind(name, 2), func() error {
		return s.engine.callJSON(ctx, http.MethodDelete, "/volumes/"+url.PathEscape(name), nil, nil, nil)
	})
}

// retry removes something, again while it is busy: a container's end takes the Engine a moment after its answer.
func (s *sweeper) retry(ctx context.Context, what string, kind int, do func() error) error {
	for {
		err := do()
		switch {
		case err == nil:
			s.count(kind)
			return nil
		case isStatus(err, http.StatusNotFound):
			return nil
		case isStatus(err, http.StatusConflict), isStatus(err, http.StatusForbidden), isStatus(err, http.StatusInternalServerError):
			select {
			case <-time.After(50 * time.Millisecond):
				continue
			case <-ctx.Done():
			}
		}
		return fmt.Errorf("remove a %s: %w", what, err)
	}
}

// images removes what the job made and nothing names any more. What is in use, or has got a name, stays.
func (s *sweeper) images(ctx context.Context, g *Guard) error {
	return s.each(g.objects.allImages(), func(id string) error {
		gone, err := g.removeNameless(ctx, id)
		if gone {
			s.count(3)
		}
		return err
	})
}

// byLabel removes what guards made that has a label and is mine, until there is nothing any more.
func (s *sweeper) byLabel(ctx context.Context, mine func(map[string]string) bool, label string) error {
	for {
		containers, err1 := s.list(ctx, "/containers/json", label, mine)
		networks, err2 := s.list(ctx, "/networks", label, mine)
		volumes, err3 := s.list(ctx, "/volumes", label, mine)
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
		if len(containers)+len(networks)+len(volumes) == 0 {
			return nil
		}
		if err := s.remove(ctx, containers, networks, volumes); err != nil {
			return err
		}
	}
}

// listed is an entry of any of the Engine's lists.
type listed struct {
	ID     string
	Name   string
	Names  []string // of a container
	Labels map[string]string
}

// byGuard reports whether a guard made the object, and not an image that gives its labels to all containers made of it:
// guards give their containers names that nobody else does.
func (l listed) byGuard(path string) bool {
	return path != "/containers/json" || slices.ContainsFunc(l.Names, func(name string) bool {
		return strings.HasPrefix(name, "/"+namePrefix(l.Labels[LabelGuard]))
	})
}

func (s *sweeper) list(ctx context.Context, path, label string, mine func(map[string]string) bool) ([]string, error) {
	q := wire.Filters{"label": {label}}.Query(url.Values{"all": {"1"}})
	var doc json.RawMessage
	if err := s.engine.getJSON(ctx, path, q, &doc); err != nil {
		return nil, fmt.Errorf("list what is left: %w", err)
	}
	var list []listed
	if path == "/volumes" {
		var v struct{ Volumes []listed }
		if err := json.Unmarshal(doc, &v); err != nil {
			return nil, fmt.Errorf("list what is left: %w", err)
		}
		list = v.Volumes
	} else if err := json.Unmarshal(doc, &list); err != nil {
		return nil, fmt.Errorf("list what is left: %w", err)
	}
	var out []string
	for _, o := range list {
		id := o.ID
		if path == "/volumes" {
			id = o.Name
		}
		if id != s.keep && o.byGuard(path) && mine(o.Labels) {
			out = append(out, id)
		}
	}
	return out, nil
}
