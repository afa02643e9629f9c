package runner

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/job"
)

const (
	// rotateLook is how often the clock is looked at: it may be set, and machines sleep.
	rotateLook = 30 * time.Second
	// A rotation that failed is tried again after these, each wait twice the one before.
	rotateMin = time.Minute
	rotateMax = time.Hour
	// rotateTimeout bounds one try.
	rotateTimeout = 2 * time.Minute

	rotationOff = "FF_DISABLE_AUTOMATIC_TOKEN_ROTATION"
)

// RotateAt is when a runner's token is to be replaced; zero = never.
//
// GitLab: when three quarters of its life are over; a token whose beginning is not known is replaced at once.
func RotateAt(r *config.Runner) time.Time {
	switch {
	case r.Unsupported != "", r.TokenExpiresAt.IsZero(), r.FeatureFlag(rotationOff, "", false):
		return time.Time{}
	case r.TokenObtainedAt.IsZero(), !r.TokenObtainedAt.Before(r.TokenExpiresAt):
		return r.TokenExpiresAt.Add(-100 * 365 * 24 * time.Hour)
	}
	return r.TokenObtainedAt.Add(r.TokenExpiresAt.Sub(r.TokenObtainedAt) / 4 * 3)
}

// Rotation replaces tokens before they expire. It is made by NewRotation; all functions are required.
type Rotation struct {
	// Can says why a new token could not be kept; it is not asked for then.
	Can func(*config.Runner) error
	// Reset asks the server for a new token. From then on the old one is worth nothing.
	Reset func(ctx context.Context, r *config.Runner) (config.Credentials, error)
	// Save writes it into the configuration file.
	Save func(*config.Runner, config.Credentials) error
	// Apply makes a configuration effective.
	Apply func(*config.Config)
	Log   *slog.Logger

	mu     sync.Mutex
	cfg    *config.Config // in effect
	tokens []*renewed
	tries  map[identity]*try // of Run alone
	woken  chan struct{}     // another configuration is there; has room for one
}

// NewRotation completes a Rotation whose functions are set.
func NewRotation(r *Rotation) *Rotation {
	r.tries, r.woken = map[identity]*try{}, make(chan struct{}, 1)
	return r
}

// identity is what a runner's credentials are found by.
type identity struct {
	url   string
	token config.Secret
}

func identityOf(r *config.Runner) identity { return identity{r.URL, r.Token} }

// renewed is a new token that is not in the file yet.
type renewed struct {
	of *config.Runner // with the old token
	to config.Credentials
}

// try is what is known of a token's rotation, in time since Run began: the clock may be set at any moment.
type try struct {
	at   time.Time     // when the token is to be replaced, by the clock, and
	due  time.Duration // when that was, by the clock as it was when the token was first seen
	next time.Duration // not before
	wait time.Duration // after a failure
	said bool          // that it cannot be done here
}

// Loaded takes a configuration that was read from the file, and returns the one to use: with those new tokens that could
// not be written to the file yet.
func (r *Rotation) Loaded(cfg *config.Config) *config.Config {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.tokens {
		cfg = withCredentials(cfg, n.of, n.to)
	}
	r.cfg = cfg
	select {
	case r.woken <- struct{}{}:
	default:
	}
	return cfg
}

// Run replaces tokens until ctx ends. Loaded must have been called.
func (r *Rotation) Run(ctx context.Context) {
	began := time.Now()
	for {
		wait := r.look(ctx, time.Now(), time.Since(began))
		select {
		case <-time.After(wait):
		case <-r.woken:
		case <-ctx.Done():
			return
		}
	}
}

// look does what is due and says when to look again. A token is due by the clock, or by the time that went by since it was seen:
// the one counts for machines that slept, the other where the clock was set back.
func (r *Rotation) look(ctx context.Context, now time.Time, up time.Duration) time.Duration {
	r.saveLeft(now)
	r.mu.Lock()
	cfg := r.cfg
	r.mu.Unlock()
	wait := rotateLook
	seen := map[identity]bool{}
	for _, run := range cfg.Runners {
		at := RotateAt(run)
		if at.IsZero() || seen[identityOf(run)] {
			continue
		}
		seen[identityOf(run)] = true
		t := r.tryOf(run)
		if !t.at.Equal(at) {
			t.at, t.due = at, up+at.Sub(now)
		}
		if left := max(min(at.Sub(now), t.due-up), t.next-up); left > 0 {
			wait = min(wait, left)
			continue
		}
		r.rotate(ctx, run, now, up)
	}
	return max(wait, 10*time.Millisecond)
}

func (r *Rotation) tryOf(run *config.Runner) *try {
	id := identityOf(run)
	if r.tries[id] == nil {
		r.tries[id] = &try{}
	}
	return r.tries[id]
}

// again plans the next try.
func (t *try) again(up time.Duration) {
	t.wait = min(max(2*t.wait, rotateMin), rotateMax)
	t.next = up + t.wait
}

// rotate replaces the token of one runner.
func (r *Rotation) rotate(ctx context.Context, run *config.Runner, now time.Time, up time.Duration) {
	log, t := r.Log.With("runner", run.Name, "expires", run.TokenExpiresAt.Format(time.RFC3339)), r.tryOf(run)
	t.again(up)
	next := now.Add(t.wait).Format(time.RFC3339)
	if err := r.Can(run); err != nil {
		if !t.said {
			log.Error("the runner's token is not replaced before it expires, because the new one could not be kept", "error", err)
			t.said = true
		}
		return
	}
	limited, cancel := context.WithTimeout(ctx, rotateTimeout)
	to, err := r.Reset(limited, run)
	cancel()
	switch {
	case ctx.Err() != nil:
		return
	case errors.Is(err, job.ErrForbidden):
		log.Error("the server does not accept the runner's token, and so gives no new one", "error", err, "next_try", next,
			"hint", "create a new token on the runner's page in GitLab and put it into config.toml")
		return
	case err != nil:
		log.Warn("the runner's token cannot be replaced now", "error", err, "next_try", next)
		return
	}
	delete(r.tries, identityOf(run))
	// By a clock that is far ahead the new token is due at once, and so would be each that follows.
	r.tries[identity{run.URL, to.Token}] = &try{next: up + rotateMax}
	r.mu.Lock()
	r.tokens = append(r.tokens, &renewed{run, to})
	cfg := withCredentials(r.cfg, run, to)
	r.cfg = cfg
	r.mu.Unlock()
	// First of all it must not be lost: who reads the file next needs it.
	r.saveLeft(now)
	r.Apply(cfg)
	log.Info("the runner's token was replaced", "new_expires", to.ExpiresAt.Format(time.RFC3339))
}

// saveLeft writes new tokens to the file that are not there yet.
func (r *Rotation) saveLeft(now time.Time) {
	r.mu.Lock()
	all := r.tokens
	r.mu.Unlock()
	var left []*renewed
	for _, n := range all {
		err := r.Save(n.of, n.to)
		if errors.Is(err, config.ErrNoRunner) {
			continue // somebody has removed the runner from the file, or put another token there
		}
		if err != nil {
			left = append(left, n)
			r.Log.Error("a runner's new token is in use, but cannot be written to the configuration: it is lost if slipway ends now",
				"runner", n.of.Name, "error", err, "next_try", now.Add(rotateLook).Format(time.RFC3339))
		}
	}
	r.mu.Lock()
	r.tokens = left
	r.mu.Unlock()
}

// withCredentials is a configuration in which the runners with the credentials of old have others.
func withCredentials(cfg *config.Config, old *config.Runner, to config.Credentials) *config.Config {
	c := *cfg
	c.Runners = make([]*config.Runner, len(cfg.Runners))
	for i, run := range cfg.Runners {
		if identityOf(run) == identityOf(old) {
			changed := *run
			changed.Token, changed.TokenObtainedAt, changed.TokenExpiresAt = to.Token, to.ObtainedAt, to.ExpiresAt
			if to.ID != 0 {
				changed.ID = to.ID
			}
			run = &changed
		}
		c.Runners[i] = run
	}
	return &c
}
