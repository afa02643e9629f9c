package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	if !helperName.MatchString(string(h)) {
		return nil, fmt.Errorf("%q is no name of a credential helper", string(h))
	}
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.program(), action)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = strings.NewReader(in), &stdout, &stderr, time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return stdout.Bytes(), nil
	case ctx.Err() != nil:
		return nil, h.failed(action, context.Cause(ctx))
	case errors.As(err, &exit) && strings.TrimSpace(stdout.String()) == noCredentials:
		return nil, nil
	}
	for _, text := range []string{stdout.String(), stderr.String()} { // helpers tell errors on either
		if line, _, _ := strings.Cut(strings.TrimSpace(text), "\n"); line != "" {
			err = fmt.Errorf("%w: %s", err, line)
			break
		}
	}
	return nil, h.failed(action, err)
}

func (h credentialHelper) program() string { return "docker-credential-" + string(h) }

func (h credentialHelper) failed(action string, err error) error {
	return fmt.Errorf("%s %s: %w", h.program(), action, err)
}
