package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/job"
)

// rotor is a rotation with a server and a file that the test breaks. It lives in a synctest bubble.
type rotor struct {
	*Rotation
	start          time.Time
	events         []string
	can, get, save error
	life           time.Duration
	tokens         int
	log            bytes.Buffer
	applied        *config.Config

	mu    sync.Mutex // between the test and what Run calls
	turns int
}

func startRotor(t *testing.T, life time.Duration, runners ...*config.Runner) *rotor {
	t.Helper()
	r := &rotor{start: time.Now(), life: life}
	note := func(format string, args ...any) { // with the lock
		r.events = append(r.events, fmt.Sprintf("%s: ", time.Since(r.start))+fmt.Sprintf(format, args...))
	}
	r.Rotation = NewRotation(&Rotation{
		Can: func(*config.Runner) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.can
		},
		Reset: func(_ context.Context, run *config.Runner) (config.Credentials, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.get != nil {
				note("reset fails")
				return config.Credentials{}, r.get
			}
			r.tokens++
			to := config.Credentials{Token: config.Secret(fmt.Sprintf("new%d", r.tokens)), ObtainedAt: time.Now(), ExpiresAt: time.Now().Add(r.life)}
			note("reset %s", run.Token.Reveal())
			return to, nil
		},
		Save: func(run *config.Runner, to config.Credentials) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.save != nil {
				note("save fails")
				return r.save
			}
			note("save %s for %s", to.Token.Reveal(), run.Token.Reveal())
			return nil
		},
		Apply: func(cfg *config.Config) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.applied = cfg
			var tokens []string
			for _, run := range cfg.Runners {
				tokens = append(tokens, run.Token.Reveal())
			}
			note("apply %s", strings.Join(tokens, " "))
		},
		Log: slog.New(slog.NewTextHandler(&r.log, nil)),
	})
	r.Loaded(&config.Config{Concurrent: 1, Runners: runners})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	t.Cleanup(func() { stop(); <-done })
	return r
}

// after lets the clock run. What the test has set counts from here on.
func (r *rotor) after(d time.Duration) {
	r.mu.Lock()
	r.turns++
	r.mu.Unlock()
	time.Sleep(d)
	synctest.Wait()
}

func expiring(name string, life time.Duration) *config.Runner {
	return section(name, func(r *config.Runner) { r.TokenObtainedAt, r.TokenExpiresAt = time.Now(), time.Now().Add(life) })
}

func (r *rotor) happened(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, r.events); diff != "" {
		t.Errorf("(-want +got)\n%s\n%s", diff, r.log.String())
	}
}

// TestRotation: at three quarters of a token's life, again and again; runners that share a token get the same new one, one
// that does not expire keeps its own.
func TestRotation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		off := expiring("off", time.Hour)
		off.FeatureFlags = map[string]bool{rotationOff: true}
		r := startRotor(t, 8*time.Hour, expiring("a", 4*time.Hour), expiring("a", 4*time.Hour), section("forever"), off, section("skipped"))
		r.after(2*time.Hour + 59*time.Minute)
		r.happened(t)
		r.after(2 * time.Minute)
		r.happened(t, "3h0m0s: reset a", "3h0m0s: save new1 for a", "3h0m0s: apply new1 new1 forever off skipped")
		r.after(6 * time.Hour)
		if n := len(r.events); n != 6 || r.events[3] != "9h0m0s: reset new1" {
			t.Errorf("got %q", r.events)
		}
	})
}

// TestRotationFails: a server that is away is asked less and less, one that refuses too, and nothing is lost meanwhile.
func TestRotationFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := startRotor(t, 1000*time.Hour, expiring("a", 400*time.Minute))
		r.get = errors.New("connection refused")
		r.after(300*time.Minute + 130*time.Minute)
		r.happened(t, "5h0m0s: reset fails", "5h1m0s: reset fails", "5h3m0s: reset fails", "5h7m0s: reset fails", "5h15m0s: reset fails",
			"5h31m0s: reset fails", "6h3m0s: reset fails", "7h3m0s: reset fails")
		r.get = fmt.Errorf("reset: %w", job.ErrForbidden)
		r.after(time.Hour)
		if got := r.log.String(); !strings.Contains(got, "create a new token on the runner's page") {
			t.Errorf("no advice in the log:\n%s", got)
		}
		r.get, r.events = nil, nil
		r.after(time.Hour)
		r.happened(t, "9h3m0s: reset a", "9h3m0s: save new1 for a", "9h3m0s: apply new1")
	})
}

// TestRotationNotKept: no token is asked for that could not be kept.
func TestRotationNotKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := startRotor(t, time.Hour, expiring("a", 4*time.Minute))
		r.can = errors.New("the file is read-only")
		r.after(time.Hour)
		r.happened(t)
		if n := strings.Count(r.log.String(), "read-only"); n != 1 {
			t.Errorf("said %d times:\n%s", n, r.log.String())
		}
	})
}

// TestRotationNotSaved: a token that cannot be written is used, survives a reload, and is written as soon as it can be.
func TestRotationNotSaved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		old := expiring("a", 4*time.Minute)
		r := startRotor(t, 10*time.Hour, old)
		r.save = errors.New("no space left on device")
		r.after(3*time.Minute + 40*time.Second)
		if got := r.applied.Runners[0].Token; got != "new1" {
			t.Fatalf("the token in use is %q", got.Reveal())
		}
		if got := r.Loaded(&config.Config{Runners: []*config.Runner{old}}).Runners[0].Token; got != "new1" {
			t.Errorf("after a reload the token in use is %q", got.Reveal())
		}
		r.save, r.events = nil, nil
		r.after(time.Minute)
		r.happened(t, "3m40s: save new1 for a") // woken by the reload
		// Somebody puts the old token back, whose time is over: it is tried at once.
		if got := r.Loaded(&config.Config{Runners: []*config.Runner{old}}).Runners[0].Token; got != "a" {
			t.Errorf("what the file says does not count: %q", got.Reveal())
		}
	})
}

func TestRotateAt(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)
	r := &config.Runner{TokenObtainedAt: now, TokenExpiresAt: now.Add(40 * 24 * time.Hour)}
	if got, want := RotateAt(r), now.Add(30*24*time.Hour); !got.Equal(want) {
		t.Errorf("got %s, want %s", got, want)
	}
	for name, obtained := range map[string]time.Time{"unknown": {}, "after the end": now.Add(50 * 24 * time.Hour)} {
		r.TokenObtainedAt = obtained
		if got := RotateAt(r); got.IsZero() || got.After(now) {
			t.Errorf("obtained %s: got %s, want it due", name, got)
		}
	}
}

// TestRotationByTwoClocks: a token is due by the time that went by even if the clock was set back, and if it was set forth a little
// early, but not again and again.
func TestRotationByTwoClocks(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	type step struct {
		up, jump time.Duration // since the start; of the clock
		resets   int           // so far
	}
	for name, c := range map[string]struct {
		fails int // so many resets
		steps []step
	}{
		"set back":        {steps: []step{{0, 0, 0}, {29 * time.Hour, -day, 0}, {30*time.Hour - time.Second, -day, 0}, {30 * time.Hour, -day, 1}, {31*time.Hour + 1, -day, 1}}},
		"set forth":       {steps: []step{{0, 0, 0}, {5 * time.Hour, day, 0}, {6 * time.Hour, day, 1}, {8 * time.Hour, day, 1}}},
		"far ahead":       {steps: []step{{0, 1000 * day, 1}, {time.Minute, 1000 * day, 1}, {time.Hour - 1, 1000 * day, 1}, {time.Hour, 1000 * day, 2}}},
		"forth and back":  {steps: []step{{0, 0, 0}, {time.Hour, 20 * time.Hour, 0}, {2 * time.Hour, -day, 0}, {30 * time.Hour, -day, 1}}},
		"slept":           {steps: []step{{0, 0, 0}, {time.Hour, 30 * time.Hour, 1}}},
		"fails, set back": {fails: 1, steps: []step{{30 * time.Hour, 0, 1}, {30*time.Hour + rotateMin - 1, -day, 1}, {30*time.Hour + rotateMin, -day, 2}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var now time.Time
			resets := 0
			r := NewRotation(&Rotation{
				Can:  func(*config.Runner) error { return nil },
				Save: func(*config.Runner, config.Credentials) error { return nil },
				Reset: func(context.Context, *config.Runner) (config.Credentials, error) {
					if resets++; resets <= c.fails {
						return config.Credentials{}, errors.New("no answer")
					}
					// The server's clock is right, and ours may not be.
					return config.Credentials{Token: config.Secret(fmt.Sprint("new", resets)), ObtainedAt: now, ExpiresAt: start.Add(60 * time.Hour)}, nil
				},
				Apply: func(*config.Config) {},
				Log:   slog.New(slog.DiscardHandler),
			})
			r.Loaded(&config.Config{Runners: []*config.Runner{section("a", func(r *config.Runner) { r.TokenObtainedAt, r.TokenExpiresAt = start, start.Add(40*time.Hour) })}})
			for _, s := range c.steps {
				now = start.Add(s.up + s.jump)
				if r.look(t.Context(), now, s.up); resets != s.resets {
					t.Errorf("after %s, with the clock off by %s: %d resets, want %d", s.up, s.jump, resets, s.resets)
				}
			}
		})
	}
}
