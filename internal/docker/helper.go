package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// credentialHelper is a program that keeps credentials, named without its beginning docker-credential-. The protocol is that of
// https://github.com/docker/docker-credential-helpers.
type credentialHelper string

const (
	// helperTimeout bounds one call: some helpers ask a cloud.
	helperTimeout = time.Minute
	// longestAnswer and longestError bound what a helper may print.
	longestAnswer = 64 << 10
	longestError  = 4 << 10
	// noCredentials is what a helper prints when it has none for a registry.
	noCredentials = "credentials not found in native keychain"
	// tokenUser stands in a user's place when the secret is an identity token.
	tokenUser = "<token>"
)

// helperName keeps a job, whose DOCKER_AUTH_CONFIG may name a helper, from naming a path.
var helperName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// get returns the credentials for a registry, none if the helper has none.
func (h credentialHelper) get(ctx context.Context, server string) (Credentials, error) {
	out, err := h.call(ctx, "get", server)
	if err != nil {
		return Credentials{}, err
	}
	if out == nil {
		return Credentials{}, nil
	}
	var got struct{ Username, Secret string }
	if err := json.Unmarshal(out, &got); err != nil {
		return Credentials{}, h.failed("get", errors.New("its answer cannot be read")) // the error would quote it
	}
	if got.Username == tokenUser {
		return Credentials{Server: server, IdentityToken: got.Secret}, nil
	}
	return Credentials{Server: server, Username: got.Username, Password: got.Secret}, nil
}

// list returns the registries that the helper has credentials for.
func (h credentialHelper) list(ctx context.Context) ([]string, error) {
	out, err := h.call(ctx, "list", "")
	if err != nil || out == nil {
		return nil, err
	}
	var got map[string]string
	if err := json.Unmarshal(out, &got); err != nil {
		return nil, h.failed("list", errors.New("its answer cannot be read"))
	}
	return slices.Collect(maps.Keys(got)), nil
}

// call runs the helper and returns what it printed, nil if it has no credentials.
func (h credentialHelper) call(ctx context.Context, action, in string) ([]byte, error) {
	if err := h.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.program(), action)
	stdout, stderr := &beginning{limit: longestAnswer, refuse: true}, &beginning{limit: longestError}
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = strings.NewReader(in), stdout, stderr, time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case stdout.over:
		return nil, h.failed(action, errors.New("its answer is too long"))
	case err == nil:
		return stdout.Bytes(), nil
	case ctx.Err() != nil:
		return nil, h.failed(action, context.Cause(ctx))
	case errors.As(err, &exit) && strings.TrimSpace(stdout.String()) == noCredentials:
		return nil, nil
	}
	// Helpers tell errors on stdout, too, but that is where they print secrets.
	if line, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n"); line != "" {
		err = fmt.Errorf("%w: %s", err, line)
	}
	return nil, h.failed(action, err)
}

// beginning keeps the first bytes written to it. The rest is dropped, or refused.
type beginning struct {
	buf    bytes.Buffer
	limit  int
	refuse bool
	over   bool
}

func (b *beginning) Write(p []byte) (int, error) {
	room := b.limit - b.buf.Len()
	if len(p) <= room {
		return b.buf.Write(p)
	}
	b.buf.Write(p[:room])
	b.over = true
	if b.refuse {
		return room, io.ErrShortWrite
	}
	return len(p), nil
}

func (b *beginning) Bytes() []byte  { return b.buf.Bytes() }
func (b *beginning) String() string { return b.buf.String() }

func (h credentialHelper) check() error {
	if !helperName.MatchString(string(h)) {
		return fmt.Errorf("%q is no name of a credential helper", string(h))
	}
	return nil
}

func (h credentialHelper) program() string { return "docker-credential-" + string(h) }

func (h credentialHelper) failed(action string, err error) error {
	return fmt.Errorf("%s %s: %w", h.program(), action, err)
}
