package demo

import (
	"fmt"
	"io"
	"maps"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Recipe says what an image made of this machine's programs contains. The same recipe on the same machine gives the
// same image, byte for byte.
type Recipe struct {
	// Programs maps a path in the image to a program of this machine: a path, or a name that is looked up in PATH.
	// The shared libraries and the loader that a program needs come with it.
	Programs map[string]string
	// Files maps a path in the image to a file of given content.
	Files map[string]File
	// Applets puts busybox at /bin/busybox and links each of its applets to it.
	Applets bool

	Entrypoint, Cmd, Env []string
	User, WorkingDir     string
	Labels               map[string]string
	Ports                []string // that it exposes: 8080/tcp
}

// WriteArchive writes the image as the archive that the Engine's POST /images/load takes (`docker load`), under the
// given name and tag.
func (r Recipe) WriteArchive(w io.Writer, image string) error {
	tag, err := name.NewTag(image)
	if err != nil {
		return fmt.Errorf("read the image name %q: %w", image, err)
	}
	img, err := r.image()
	if err != nil {
		return err
	}
	if err := tarball.Write(tag, img, w); err != nil {
		return fmt.Errorf("write the archive of %s: %w", image, err)
	}
	return nil
}

// image builds the image in memory: one layer, not compressed, because it only ever crosses the loopback.
func (r Recipe) image() (v1.Image, error) {
	layer, err := r.layer()
	if err != nil {
		return nil, err
	}
	epoch := v1.Time{Time: time.Unix(0, 0).UTC()}
	img, err := mutate.Append(mutate.MediaType(empty.Image, types.DockerManifestSchema2), mutate.Addendum{
		Layer:     static.NewLayer(layer, types.DockerUncompressedLayer),
		History:   v1.History{Created: epoch, CreatedBy: "slipway: programs of this machine"},
		MediaType: types.DockerUncompressedLayer,
	})
	if err != nil {
		return nil, fmt.Errorf("append the layer: %w", err)
	}
	img = mutate.ConfigMediaType(img, types.DockerConfigJSON)
	file, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read the image's config: %w", err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Created = "linux", runtime.GOARCH, epoch
	file.Config = v1.Config{
		Entrypoint: r.Entrypoint, Cmd: r.Cmd, Env: r.Env,
		User: r.User, WorkingDir: r.WorkingDir, Labels: maps.Clone(r.Labels),
	}
	for _, port := range r.Ports {
		if file.Config.ExposedPorts == nil {
			file.Config.ExposedPorts = map[string]struct{}{}
		}
		file.Config.ExposedPorts[port] = struct{}{}
	}
	if img, err = mutate.ConfigFile(img, file); err != nil {
		return nil, fmt.Errorf("set the image's config: %w", err)
	}
	return img, nil
}
