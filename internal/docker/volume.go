package docker

import (
	"context"
	"fmt"

	"github.com/moby/moby/client"
)

// EnsureVolume makes sure of a volume of that name and returns where it lies on the Engine's machine.
func (e *Engine) EnsureVolume(ctx context.Context, name, driver string, opts, labels map[string]string) (dir string, err error) {
	// The Engine returns an existing volume of that name as it is.
	made, err := e.api.VolumeCreate(ctx, client.VolumeCreateOptions{Name: name, Driver: driver, DriverOpts: opts, Labels: labels})
	if err != nil {
		return "", fmt.Errorf("create volume %s: %w", name, err)
	}
	return made.Volume.Mountpoint, nil
}

// Volume is where a volume lies on the Engine's machine, and what its driver was told.
type Volume struct {
	Mountpoint, Driver string
	Options            map[string]string
}

// InspectVolume looks at a volume. IsNotFound tells that there is none of that name.
func (e *Engine) InspectVolume(ctx context.Context, name string) (Volume, error) {
	r, err := e.api.VolumeInspect(ctx, name, client.VolumeInspectOptions{})
	if err != nil {
		return Volume{}, fmt.Errorf("inspect volume %s: %w", name, err)
	}
	return Volume{r.Volume.Mountpoint, r.Volume.Driver, r.Volume.Options}, nil
}

// Object is a network or a volume in a list.
type Object struct {
	Name   string
	Labels map[string]string
}

// Volumes lists the volumes that carry the label ("key" or "key=value").
func (e *Engine) Volumes(ctx context.Context, label string) ([]Object, error) {
	list, err := e.api.VolumeList(ctx, client.VolumeListOptions{Filters: make(client.Filters).Add("label", label)})
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var out []Object
	for _, v := range list.Items {
		out = append(out, Object{v.Name, v.Labels})
	}
	return out, nil
}

// RemoveVolume removes a volume; one that is gone is no error.
func (e *Engine) RemoveVolume(ctx context.Context, name string) error {
	if _, err := e.api.VolumeRemove(ctx, name, client.VolumeRemoveOptions{}); err != nil && !IsNotFound(err) {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	return nil
}
