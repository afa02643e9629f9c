package guard

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/slipway-ci/slipway/internal/dockerfile"
	"github.com/slipway-ci/slipway/internal/ledger"
)

// resolveBase finds the image that a Dockerfile's name means for the job, pulls it if it must be, and gives it a name of
// its own. The Engine would take any local image of that name, whoever made it, and could not be given the job's
// credentials for others.
func (c *call) resolveBase(ctx context.Context, base dockerfile.Base, b *buildRequest, progress func(line []byte) error) (dockerfile.Image, string, error) {
	named, err := reference.ParseNormalizedNamed(base.Name)
	if err != nil {
		return dockerfile.Image{}, "", badRequest("invalid reference format: %s", printable(base.Name))
	}
	img, doc, err := c.findImage(ctx, base.Name)
	missing := isStatus(err, http.StatusNotFound)
	if err != nil && !missing {
		return dockerfile.Image{}, "", err
	}
	found := false
	if !missing {
		if doc, found, err = c.variant(ctx, doc, base.Platform); err != nil {
			return dockerfile.Image{}, "", err
		}
	}
	again := false
	if found && b.pull {
		if again, err = c.isPulled(img); err != nil {
			return dockerfile.Image{}, "", err
		}
	}
	if !found || again {
		o := pullOptions{Auth: b.auth(reference.Domain(named)), Progress: progress}
		if base.Platform != c.engine.platform {
			o.Platform = base.Platform
		}
		if img, doc, err = c.pull(ctx, base.Name, o); err != nil {
			return dockerfile.Image{}, "", err
		}
		if doc, found, err = c.variant(ctx, doc, base.Platform); err != nil {
			return dockerfile.Image{}, "", err
		}
		if !found && c.engine.version.atLeast("1.43") { // older ones have one platform per image, and build with it
			return dockerfile.Image{}, "", badRequest("slipway: the image %s is not for the platform %s", base.Name, base.Platform)
		}
	}
	name, err := c.alias(ctx, img)
	if err != nil {
		return dockerfile.Image{}, "", err
	}
	return dockerfile.Image{Name: name, OnBuild: doc.Config.OnBuild, Env: doc.Config.Env}, img.ID, nil
}

// isPulled reports whether an image may be newer at its registry: what the scope itself wrote is in none.
func (c *call) isPulled(img image) (bool, error) {
	if !strings.HasPrefix(img.Stored, ledger.Host+"/") {
		return img.Stored != "", nil
	}
	m, err := c.meaning(img.Stored)
	return m.Pulled, err
}

// imagePlatform is a platform as the Engine writes it.
type imagePlatform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
	OSVersion    string `json:"os.version,omitempty"`
}

// variant describes an image as it is for a platform: newer Engines keep several in one image, and show one of them if
// nobody says which. Which one BuildKit takes is for BuildKit to say, so all must have the same triggers. found is false
// if none is for the platform.
func (c *call) variant(ctx context.Context, doc imageDoc, platform string) (chosen imageDoc, found bool, err error) {
	if !c.engine.version.atLeast("1.49") {
		return doc, samePlatform(doc, platform), nil
	}
	var all struct {
		Manifests []struct {
			Available  bool
			Kind       string
			Descriptor struct{ Platform *imagePlatform }
			ImageData  *struct{ Platform imagePlatform }
		}
	}
	path := "/images/" + doc.ID + "/json"
	if err := c.engine.getJSON(ctx, path, url.Values{"manifests": {"1"}}, &all); err != nil {
		return doc, false, err
	}
	seen := map[imagePlatform]bool{}
	images, exact := 0, false
	var missing []*imagePlatform
	for _, m := range all.Manifests {
		p := m.Descriptor.Platform // the Engine goes by that, where there is one
		if !m.Available {
			missing = append(missing, p)
		} else if m.Kind == "image" && m.ImageData != nil {
			images++
			seen[m.ImageData.Platform] = true
			exact = exact || exactPlatform(cmp.Or(p, &m.ImageData.Platform), platform)
		}
	}
	for _, p := range missing {
		// It may be there before the Engine looks, and then it may be the one that the Engine takes.
		if p == nil || exactPlatform(p, platform) || !exact && p.OS == platformParts(platform)[0] && p.Architecture == platformParts(platform)[1] {
			return doc, false, nil
		}
	}
	if images <= 1 {
		return doc, samePlatform(doc, platform), nil
	}
	unclear := images != len(seen)
	for p := range seen {
		text, err := json.Marshal(p)
		if err != nil {
			return doc, false, err
		}
		var d imageDoc
		if err := c.engine.getJSON(ctx, path, url.Values{"platform": {string(text)}}, &d); err != nil {
			return doc, false, err
		}
		unclear = unclear || !slices.Equal(d.Config.OnBuild, doc.Config.OnBuild)
		if samePlatform(d, platform) {
			chosen, found = d, true
		}
	}
	if unclear {
		return doc, false, c.refuse(deny("build-onbuild", "use a base image whose platforms are alike", "the triggers of the base image differ between its platforms"))
	}
	return chosen, found, nil
}

// samePlatform reports whether an image is for a platform, as os/arch[/variant].
func samePlatform(doc imageDoc, platform string) bool {
	parts := platformParts(platform)
	return doc.Os == "" || doc.Os == parts[0] && doc.Architecture == parts[1] && (parts[2] == "" || doc.Variant == "" || doc.Variant == parts[2])
}

// exactPlatform reports whether no other platform is closer to the one that is asked for.
func exactPlatform(p *imagePlatform, asked string) bool {
	parts, usual := platformParts(asked), map[string]string{"amd64": "v1", "arm64": "v8", "arm": "v7"}[p.Architecture]
	return p.OS == parts[0] && p.Architecture == parts[1] && cmp.Or(p.Variant, usual) == cmp.Or(parts[2], usual)
}

// platformParts are system, architecture and variant of a platform, "" = not said. The system may be left out.
func platformParts(platform string) []string {
	if !strings.Contains(platform, "/") {
		platform = "linux/" + platform
	}
	parts := append(strings.SplitN(strings.ToLower(platform), "/", 3), "", "")[:3]
	if arch, ok := map[string]string{"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}[parts[1]]; ok {
		parts[1] = arch
	}
	return parts
}
