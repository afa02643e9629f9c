package runner

import (
	"reflect"
	"slices"
	"time"

	"github.com/slipway-ci/slipway/internal/config"
)

// Reload makes a new configuration effective. Running jobs and requests in flight are left alone: a lower `concurrent`
// or `limit` holds for what starts from now on, a removed runner ends its jobs and asks no more, a runner whose section
// changed connects anew for its next request, and has to pass boot_verify again. A runner that is paused for refused requests gets another try.
//
// What Connect takes from elsewhere than the runner's section reaches a client only when that is made anew.
func (m *Manager) Reload(cfg *config.Config) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.poke()
	m.apply(cfg)
}

func (m *Manager) apply(cfg *config.Config) {
	first := m.cfg == nil
	m.cfg = cfg
	m.slots.resize(cfg.Concurrent)
	sections := cfg.Served()
	found := match(m.pollers, sections)
	back := map[*poller]bool{}
	for _, p := range m.pollers {
		gone := !slices.Contains(found, p)
		if gone && !p.removed {
			p.log.Info("runner removed", "jobs", len(p.places))
			p.excuse()
		}
		back[p] = p.removed && !gone
		p.removed = gone
	}
	for i, r := range sections {
		p := found[i]
		switch {
		case p == nil:
			p = &poller{}
			m.pollers = append(m.pollers, p)
			m.restart(p, r)
			m.require(p, r)
			if !first {
				p.log.Info("runner added")
			}
		case !equal(p.runner, r):
			m.restart(p, r)
			p.log.Info("runner changed")
			if back[p] || !sameButCredentials(p.runner, r) {
				m.require(p, r)
			}
		default:
			p.health.retry()
			if back[p] {
				m.require(p, r)
			}
		}
		p.runner = r
	}
	m.forget()
}

// restart lets a poller begin afresh with a configuration. What its jobs and requests occupy stays occupied.
func (m *Manager) restart(p *poller, r *config.Runner) {
	p.conn = &conn{runner: r, connect: m.connect}
	p.log = m.log.With("runner", r.Name)
	p.next, p.pace, p.health = time.Time{}, newPace(), health{}
	p.rate = newAdaptive(r.RequestConcurrency, r.FeatureFlags)
}

// forget drops the pollers of removed runners that have nothing under way.
func (m *Manager) forget() {
	m.pollers = slices.DeleteFunc(m.pollers, func(p *poller) bool { return p.removed && p.idle() })
}

// equal compares two sections of the configuration, but for where they stand in the file.
func equal(a, b *config.Runner) bool {
	x, y := *a, *b
	x.Pos, y.Pos = config.Position{}, config.Position{}
	return reflect.DeepEqual(x, y)
}

// match finds the poller of each section: by token; else by ID, which stays when the token is renewed; else by name.
// Where there is none, the result is nil.
func match(pollers []*poller, sections []*config.Runner) []*poller {
	found := make([]*poller, len(sections))
	for _, same := range []func(a, b *config.Runner) bool{
		func(a, b *config.Runner) bool { return a.Token == b.Token },
		func(a, b *config.Runner) bool { return a.ID != 0 && a.ID == b.ID },
		func(a, b *config.Runner) bool { return a.Name != "" && a.Name == b.Name },
	} {
		for i, r := range sections {
			if found[i] != nil {
				continue
			}
			at := slices.IndexFunc(pollers, func(p *poller) bool {
				return p.runner.URL == r.URL && same(p.runner, r) && !slices.Contains(found, p)
			})
			if at >= 0 {
				found[i] = pollers[at]
			}
		}
	}
	return found
}
