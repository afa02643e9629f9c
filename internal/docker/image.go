package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is what an image says about itself.
type Image struct {
	ID          string
	RepoTags    []string
	RepoDigests []string
	User        string
	Entrypoint  []string
	Ports       []string // that it exposes: 5432/tcp
}

// InspectImage looks an image up on the Engine; IsNotFound tells that it is not there.
func (e *Engine) InspectImage(ctx context.Context, name string) (Image, error) {
	i, err := e.api.ImageInspect(ctx, name)
	if err != nil {
		return Image{}, fmt.Errorf("inspect image %s: %w", name, err)
	}
	img := Image{ID: i.ID, RepoTags: i.RepoTags, RepoDigests: i.RepoDigests}
	if i.Config != nil {
		img.User, img.Entrypoint = i.Config.User, i.Config.Entrypoint
		img.Ports = slices.Sorted(maps.Keys(i.Config.ExposedPorts))
	}
	return img, nil
}

// CheckName says whether name is an image name in the Engine's grammar.
func CheckName(name string) error {
	if _, err := reference.ParseAnyReference(name); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	return nil
}

// Pull fetches an image from its registry. The error is a *PullError.
func (e *Engine) Pull(ctx context.Context, name, platformName string, auth Credentials) error {
	encoded, err := auth.encode()
	if err != nil {
		return err
	}
	opts := client.ImagePullOptions{RegistryAuth: encoded}
	if platformName != "" {
		p, err := platform(platformName)
		if err != nil {
			return &PullError{Image: name, Kind: PullMisconfigured, Err: err}
		}
		opts.Platforms = []ocispec.Platform{p}
	}
	resp, err := e.api.ImagePull(ctx, name, opts)
	if err != nil {
		return pullError(ctx, name, err)
	}
	defer resp.Close()
	if err := resp.Wait(ctx); err != nil {
		return pullError(ctx, name, err)
	}
	return nil
}

func (c Credentials) encode() (string, error) {
	if c == (Credentials{}) {
		return "", nil
	}
	encoded, err := authconfig.Encode(registry.AuthConfig{
		Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken, ServerAddress: c.Server,
	})
	if err != nil {
		return "", fmt.Errorf("encode credentials: %w", err)
	}
	return encoded, nil
}

// MayPull asks an image's registry whether it gives the image to who has the credentials. The error is a *PullError.
func (e *Engine) MayPull(ctx context.Context, name string, auth Credentials) error {
	encoded, err := auth.encode()
	if err != nil {
		return err
	}
	if _, err := e.api.DistributionInspect(ctx, name, client.DistributionInspectOptions{EncodedRegistryAuth: encoded}); err != nil {
		return pullError(ctx, name, err)
	}
	return nil
}

// Tag gives a name to the image with an ID, taking it from the one that has it.
func (e *Engine) Tag(ctx context.Context, id, name string) error {
	if _, err := e.api.ImageTag(ctx, client.ImageTagOptions{Source: id, Target: name}); err != nil {
		return fmt.Errorf("tag image %s: %w", name, err)
	}
	return nil
}

// Untag takes a name off an image, even if a container uses it, and removes the image when that was its last name, but
// not those that it was made from. A name that is not there is no error.
func (e *Engine) Untag(ctx context.Context, name string) error {
	_, err := e.api.ImageRemove(ctx, name, client.ImageRemoveOptions{Force: true})
	if err == nil || IsNotFound(err) {
		return nil
	}
	// Other images may be made of it: then it stays, but its name may be gone all the same.
	if _, lookErr := e.InspectImage(ctx, name); IsNotFound(lookErr) {
		return nil
	}
	return fmt.Errorf("untag image %s: %w", name, err)
}

// PullKind sorts the ways in which a pull fails by who can mend it.
type PullKind int

// The kinds of failed pulls.
const (
	// PullFailed: none of the others.
	PullFailed PullKind = iota
	// PullMisconfigured: the image's name or the credentials are wrong; trying again does not help.
	PullMisconfigured
	// PullUnreachable: the registry does not answer.
	PullUnreachable
	// PullLimited: the registry wants fewer pulls (429).
	PullLimited
)

// PullError is a failed pull.
type PullError struct {
	Image string
	Kind  PullKind
	Err   error
}

func (e *PullError) Error() string { return fmt.Sprintf("pull image %s: %v", e.Image, e.Err) }

// Unwrap gives the underlying error.
func (e *PullError) Unwrap() error { return e.Err }

func pullError(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if IsUnreachable(err) {
		return fmt.Errorf("pull image %s: %w", name, err)
	}
	return &PullError{Image: name, Kind: kindOf(err.Error()), Err: err}
}

// kindOf reads the Engine's message; there is nothing else to go by.
//
// GitLab: the texts and their order are those of its runner; toomanyrequests has no class there.
func kindOf(message string) PullKind {
	m := strings.ToLower(message)
	has := func(texts ...string) bool {
		for _, t := range texts {
			if strings.Contains(m, t) {
				return true
			}
		}
		return false
	}
	switch {
	case has("toomanyrequests", "too many requests"):
		return PullLimited
	case has("dial tcp", "connection refused", "no such host", "i/o timeout", "tls handshake", "client.timeout exceeded", "request canceled", "connection reset"):
		return PullUnreachable
	// The codes are in an answer that the Engine passes on as it is: 28 does, if a registry does not call it JSON.
	case has("not found", "manifest unknown", "manifest_unknown", "name_unknown", "invalid reference", "pull access denied", "access to the resource is denied",
		"no basic auth credentials", "repository does not exist or may require", "unauthorized", "authentication required"):
		return PullMisconfigured
	}
	return PullFailed
}

// Images lists every name of every image, tags and digests.
func (e *Engine) Images(ctx context.Context) ([]string, error) {
	list, err := e.api.ImageList(ctx, client.ImageListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var names []string
	for _, img := range list.Items {
		names = append(append(names, img.RepoTags...), img.RepoDigests...)
	}
	return names, nil
}

// RemoveImage takes a name off an image, and removes the image with what only it needs when that was its last name.
// A name that is not there is no error.
func (e *Engine) RemoveImage(ctx context.Context, name string) error {
	_, err := e.api.ImageRemove(ctx, name, client.ImageRemoveOptions{PruneChildren: true})
	if err != nil && !IsNotFound(err) {
		return fmt.Errorf("remove image %s: %w", name, err)
	}
	return nil
}

// RemoveLabeled removes all containers with a label ("key=value"), and then all images with it that have no name and are not in use.
func (e *Engine) RemoveLabeled(ctx context.Context, label string) error {
	containers, err := e.Containers(ctx, label)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range containers {
		errs = append(errs, e.Remove(ctx, c.ID))
	}
	// One by one: an Engine with containerd's images that prunes them breaks all pulls that run, whoever's they are.
	images, err := e.api.ImageList(ctx, client.ImageListOptions{Filters: make(client.Filters).Add("dangling", "true").Add("label", label)})
	if err != nil {
		errs = append(errs, fmt.Errorf("list images with label %s: %w", label, err))
	}
	for _, img := range images.Items {
		if err := e.RemoveImage(ctx, img.ID); err != nil && !errdefs.IsConflict(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Load adds the images of a docker-archive tarball.
func (e *Engine) Load(ctx context.Context, tarball io.Reader) error {
	resp, err := e.api.ImageLoad(ctx, tarball)
	if err != nil {
		return fmt.Errorf("load images: %w", err)
	}
	defer resp.Close()
	if _, err := io.Copy(io.Discard, resp); err != nil {
		return fmt.Errorf("load images: %w", err)
	}
	return nil
}
