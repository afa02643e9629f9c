package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/job"
)

// questions asks for what the flags left open.
func (r *registration) questions(ctx context.Context) error {
	if err := r.askServer(ctx); err != nil {
		return err
	}
	run, d := r.runner, r.dialogue
	for _, q := range []struct {
		to       *string
		question string
		fallback string
		accept   func(string) error
	}{
		{&run.Name, "name of this runner", hostname(), required},
		{&run.Executor, "executor", defaultExecutor, checkExecutor},
		{&run.Docker.Image, "image for jobs that name none", "docker:cli", required},
	} {
		if *q.to != "" || q.to == &run.Docker.Image && run.Executor == config.ShellExecutor {
			continue
		}
		answer, err := d.ask(ctx, q.question, q.fallback, q.accept)
		if err != nil {
			return err
		}
		*q.to = answer
	}
	if r.registrationToken == "" || r.tags != "" || len(r.given) > 0 {
		return nil
	}
	tags, err := d.ask(ctx, "tags, separated by commas (none: it takes jobs without tags)", "", func(string) error { return nil })
	r.tags, r.server.RunUntagged = tags, tags == ""
	return err
}

// askServer asks for URL and token. An authentication token is shown to the server at once; where that does not
// answer, the URL may be wrong and is asked for again.
func (r *registration) askServer(ctx context.Context) error {
	run, askURL := r.runner, r.runner.URL == ""
	for {
		if askURL {
			answer, err := r.dialogue.ask(ctx, "URL of the GitLab server", "https://gitlab.com", checkURL)
			if err != nil {
				return err
			}
			run.URL = answer
		}
		if run.Token != "" || r.registrationToken != "" {
			return nil
		}
		err := r.askToken(ctx)
		var away *awayError
		if !errors.As(err, &away) || !askURL {
			return err
		}
		printError(r.dialogue.out, away.err)
		run.Token = ""
	}
}

// awayError: the server did not say whether it takes the token.
type awayError struct{ err error }

func (e *awayError) Error() string { return e.err.Error() }
func (e *awayError) Unwrap() error { return e.err }

// askToken asks until the server takes the token. Whether it takes a registration token is seen when it is used.
func (r *registration) askToken(ctx context.Context) error {
	r.runner.Token, r.registrationToken, r.asked = "", "", true
	_, err := r.dialogue.askSecret(ctx, "token of the runner (glrt-…), from its page in GitLab", func(token string) error {
		switch {
		case token == "":
			return required(token)
		case !strings.HasPrefix(token, authenticationPrefix):
			r.registrationToken = token
			return nil
		case len(r.given) > 0:
			return usagef("press Ctrl-C and leave them out", "%s cannot be set for a runner with an authentication token", strings.Join(r.given, ", "))
		}
		r.runner.Token = config.Secret(token)
		err := r.verify(ctx)
		switch {
		case err == nil, errors.Is(err, job.ErrForbidden):
			return err
		case errors.Is(err, errInterrupted):
			return &endError{err}
		}
		return &endError{&awayError{err}}
	})
	return err
}

func required(s string) error {
	if s == "" {
		return errors.New("an answer is needed")
	}
	return nil
}

// checkURL refuses what is no address of a server.
func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return usagef("write it as in a browser: https://gitlab.example.com", "%q is not the URL of a server", s)
	}
	return nil
}

func checkExecutor(executor string) error {
	_, err := checkRunner(&config.Runner{
		Name: "-", URL: "http://localhost", Token: "-", Executor: executor, Docker: &config.Docker{Image: "-"},
	})
	return err
}

// checkRunner finds what config.Load would find fault with once the runner stands in a config, and names the flags. withheld are the
// settings that jobs will not be given.
func checkRunner(r *config.Runner) (withheld []config.Warning, err error) {
	c := *r
	c.Token = "-" // the server knows better, and need not stand in one file more
	dir, err := os.MkdirTemp("", "slipway-register-")
	if err != nil {
		return nil, fmt.Errorf("check the settings: %w", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "config.toml")
	if err := config.AddRunner(path, &c); err != nil {
		return nil, fmt.Errorf("check the settings: %w", err)
	}
	cfg, warnings, err := config.Load(path)
	var errs []error
	for _, p := range config.Problems(err) {
		errs = append(errs, usagef(p.Hint, "%s: %s", flagFor(p.Key), p.Msg))
	}
	if len(errs) > 0 || err != nil {
		return nil, cmp.Or(errors.Join(errs...), err)
	}
	if why := cfg.Runners[0].Unsupported; why != "" {
		return nil, usagef("slipway runs jobs with the executors docker and shell", "%s", why)
	}
	for _, w := range warnings {
		switch {
		case w.Withheld:
			withheld = append(withheld, w)
		case strings.HasPrefix(w.Key, "runners."):
			errs = append(errs, usagef(w.Hint, "%s: %s", flagFor(w.Key), w.Msg))
		}
	}
	return withheld, errors.Join(errs...)
}
