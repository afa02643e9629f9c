package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/config"
	"github.com/slipway-ci/slipway/internal/gitlab"
	"github.com/slipway-ci/slipway/internal/job"
)

const (
	authenticationPrefix = "glrt-" // of the tokens that are shown on a runner's page
	defaultExecutor      = "docker"
)

// registration is a runner on its way into the config.
type registration struct {
	*registerFlags
	path     string
	conn     connector
	dialogue *dialogue // nil = ask nothing
	warnings io.Writer
	asked    bool // the token was typed in and can be typed in again
	known    bool // to the server, which gave what follows
	id       int64
	expires  *time.Time
}

// settings makes the runner complete and sees that it is one that slipway can run.
func (r *registration) settings(ctx context.Context) error {
	run := r.runner
	if r.dialogue == nil {
		if err := r.missing(); err != nil {
			return err
		}
	} else if err := r.questions(ctx); err != nil {
		return err
	}
	if run.Executor == config.ShellExecutor {
		run.Docker = nil
	} else if !hasCacheVolume(run.Docker.Volumes) {
		run.Docker.Volumes = append(run.Docker.Volumes, "/cache") // GitLab: so that caches outlive their job
	}
	withheld, err := checkRunner(run)
	for _, w := range withheld {
		fmt.Fprintf(r.warnings, "slipway: warning: %s: %s\n", flagFor(w.Key), w.Msg)
		printHint(r.warnings, w.Hint)
	}
	return err
}

// missing says what has to be given when nothing is asked, and fills in what has a default.
func (r *registration) missing() error {
	run := r.runner
	var errs []error
	need := func(value, flag, env string) {
		if value == "" {
			errs = append(errs, usagef("or the variable "+env, "--%s is missing", flag))
		}
	}
	need(run.URL, "url", "CI_SERVER_URL")
	need(run.Token.Reveal()+r.registrationToken, "token", "CI_SERVER_TOKEN")
	run.Name = cmp.Or(run.Name, hostname())
	run.Executor = cmp.Or(run.Executor, defaultExecutor)
	if run.Executor == defaultExecutor { // of one that slipway does not have, checkRunner tells
		need(run.Docker.Image, "docker-image", "DOCKER_IMAGE")
	}
	return errors.Join(errs...)
}

// obtain gets the runner's ID and, for a registration token, its token from the server.
func (r *registration) obtain(ctx context.Context) error {
	switch {
	case r.known: // verified when it was typed in
		return nil
	case r.runner.Token != "":
		return r.verify(ctx)
	}
	for {
		err := r.create(ctx)
		if err == nil {
			return nil
		}
		if !r.asked || !errors.Is(err, job.ErrForbidden) {
			return err
		}
		printError(r.dialogue.out, err)
		if err := r.askToken(ctx); err != nil || r.known {
			return err
		}
	}
}

// verify asks the server for the runner of an authentication token.
func (r *registration) verify(ctx context.Context) error {
	client, err := r.conn.client(r.runner)
	if err != nil {
		return err
	}
	defer client.Close()
	reg, err := client.Verify(ctx)
	if errors.Is(err, job.ErrForbidden) && !strings.HasPrefix(r.runner.Token.Reveal(), authenticationPrefix) {
		return withHint(err, "the token of a runner's page begins with %s; a registration token goes to --registration-token", authenticationPrefix)
	}
	return r.accepted(ctx, reg, err)
}

// create makes a runner with a registration token.
func (r *registration) create(ctx context.Context) error {
	with := *r.runner
	with.Token = config.Secret(r.registrationToken)
	client, err := r.conn.client(&with)
	if err != nil {
		return err
	}
	defer client.Close()
	o := r.server
	o.Description = r.runner.Name
	for tag := range strings.SplitSeq(r.tags, ",") {
		if tag = strings.TrimSpace(tag); tag != "" {
			o.Tags = append(o.Tags, tag)
		}
	}
	reg, err := client.Register(ctx, o)
	return r.accepted(ctx, reg, err)
}

func (r *registration) accepted(ctx context.Context, reg gitlab.Registration, err error) error {
	if err != nil {
		if ctx.Err() != nil {
			return errInterrupted
		}
		return r.refusal(err)
	}
	r.known, r.id, r.expires = true, reg.ID, reg.ExpiresAt
	r.runner.Token = config.Secret(reg.Token)
	return nil
}

// refusal adds to what came of the first call to a server what may be wrong.
func (r *registration) refusal(err error) error {
	var hinted *hintError
	var answered interface{ HTTPStatus() int }
	switch {
	case errors.As(err, &hinted):
		return err
	case errors.Is(err, job.ErrForbidden) && r.registrationToken != "":
		return withHint(err, "registration tokens can be turned off in GitLab, which drops them in version 20: make the runner there, and give its token by --token")
	case errors.Is(err, job.ErrForbidden):
		return withHint(err, "copy the token once more; GitLab shows it only when the runner is made: if it is lost, make another one")
	case errors.As(err, &answered) && answered.HTTPStatus() == http.StatusNotFound:
		return withHint(err, "is that GitLab's address? write it without the path of a project or group, as in https://gitlab.example.com")
	case errors.As(err, &answered): // it says itself what is wrong
		return err
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return withHint(err, "give the certificate of the server's authority by --tls-ca-file")
	}
	return withHint(err, "look at the server's URL, the network and its proxies (HTTPS_PROXY)")
}

// write puts the runner into the config. A runner that was just created and cannot be written is deleted again: its
// token would be lost.
func (r *registration) write(ctx context.Context) error {
	run := r.runner
	run.ID, run.TokenObtainedAt = r.id, time.Now()
	if r.expires != nil {
		run.TokenExpiresAt = *r.expires
	}
	err := config.AddRunner(r.path, run)
	if err == nil || r.registrationToken == "" || r.leaveRunner {
		return err
	}
	client, clientErr := r.conn.client(run)
	if clientErr == nil {
		defer client.Close()
		clientErr = client.Unregister(context.WithoutCancel(ctx))
	}
	if clientErr != nil {
		return errors.Join(err, withHint(clientErr, "delete runner %d in GitLab", r.id))
	}
	return err
}

// hasCacheVolume reports whether something is mounted at /cache already.
func hasCacheVolume(volumes []string) bool {
	for _, v := range volumes {
		parts := strings.Split(v, ":") // /path or source:/path[:mode]
		if path.Clean(parts[min(1, len(parts)-1)]) == "/cache" {
			return true
		}
	}
	return false
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "slipway"
	}
	return name
}
