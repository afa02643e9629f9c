package guard

import (
	"context"
	"net/http"
	"strings"

	"github.com/distribution/reference"

	"github.com/slipway-ci/slipway/internal/dockerfile"
)

// baseDoc is what is read of the image that a Dockerfile names.
type baseDoc struct {
	ID                        string `json:"Id"`
	Os, Architecture, Variant string
	Config                    struct{ Env, OnBuild []string }
}

// resolveBase finds the image that a Dockerfile's name means for the job, pulls it if it must be, and gives it a name of
// its own. The Engine would take any local image of that name, whoever made it, and could not be given the job's
// credentials for others.
func (c *call) resolveBase(ctx context.Context, base dockerfile.Base, b *buildRequest, platform string, progress func(line []byte) error) (dockerfile.Image, string, error) {
	named, err := reference.ParseNormalizedNamed(base.Name)
	if err != nil {
		return dockerfile.Image{}, "", badRequest("invalid reference format: %s", printable(base.Name))
	}
	img, err := c.readImage(ctx, base.Name)
	missing := isStatus(err, http.StatusNotFound)
	if err != nil && !missing {
		return dockerfile.Image{}, "", err
	}
	var doc baseDoc
	if !missing {
		if err := c.engine.getJSON(ctx, "/images/"+img.ID+"/json", nil, &doc); err != nil {
			return dockerfile.Image{}, "", err
		}
	}
	// What the scope itself wrote is in no registry.
	again := b.pull && c.isPulled(img)
	if missing || again || !samePlatform(doc, base.Platform) {
		o := pullOptions{Auth: b.auth(reference.Domain(named)), Progress: progress}
		if base.Platform != platform {
			o.Platform = base.Platform
		}
		if img, err = c.pull(ctx, base.Name, o); err != nil {
			return dockerfile.Image{}, "", err
		}
		doc = baseDoc{}
		if err := c.engine.getJSON(ctx, "/images/"+img.ID+"/json", nil, &doc); err != nil {
			return dockerfile.Image{}, "", err
		}
	}
	name, err := c.alias(ctx, img)
	if err != nil {
		return dockerfile.Image{}, "", err
	}
	return dockerfile.Image{Name: name, OnBuild: doc.Config.OnBuild, Env: doc.Config.Env}, img.ID, nil
}

// isPulled reports whether an image may be newer at its registry: it is not the scope's own.
func (c *call) isPulled(img image) bool {
	return img.Stored != "" && !strings.HasPrefix(img.Stored, "slipway.local/")
}

// samePlatform reports whether an image is for a platform, as os/arch[/variant].
func samePlatform(doc baseDoc, platform string) bool {
	parts := append(strings.SplitN(platform, "/", 3), "", "")
	return doc.Os == "" || doc.Os == parts[0] && doc.Architecture == parts[1] && (parts[2] == "" || doc.Variant == "" || doc.Variant == parts[2])
}
