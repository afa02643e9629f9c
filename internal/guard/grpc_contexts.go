package guard

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"

	"github.com/slipway-ci/slipway/internal/dockerfile"
)

// contextName begins the names that named contexts have for the Engine: what it did not know as a context would otherwise
// be an image of that name.
const contextName = "slipway-context-"

// readContexts takes a build's named contexts: images, which the Dockerfile's copy names in their place; folders of the
// client's; and results of other builds of the job.
func (b *grpcBuild) readContexts(c *call, o *frontendOptions, r, request *gateway.SolveRequest) (map[string]dockerfile.Context, error) {
	out := map[string]dockerfile.Context{}
	for i, name := range slices.Sorted(maps.Keys(o.contexts)) {
		value := o.contexts[name]
		kind, rest, _ := strings.Cut(value, ":")
		switch kind {
		case "docker-image":
			out[name] = dockerfile.Context{Image: strings.TrimPrefix(rest, "//")}
			continue
		case "local":
			if err := b.offerFolder(o, rest); err != nil {
				return nil, err
			}
		case "input":
			if err := c.input(rest, r, request); err != nil {
				return nil, err
			}
		case "oci-layout":
			if err := c.refuse(deny("build-context-oci", "load it with docker load and write docker-image://NAME", "the named context %s is an image in the client's folder, which nobody has checked", printable(name))); err != nil {
				return nil, err
			}
		default:
			if err := c.refuse(deny("build-remote", "fetch it in the job and give the folder", "the Engine would fetch the named context %s itself, from a place that the job may not reach", printable(name))); err != nil {
				return nil, err
			}
		}
		if !c.engine.version.atLeast(namedContexts) {
			return nil, badRequest("slipway: the named context %s needs Docker Engine 23.0; this one has version %s", printable(name), c.engine.release)
		}
		ours := fmt.Sprint(contextName, i+1)
		out[name] = dockerfile.Context{Name: ours}
		o.own[optionContext+ours] = value
		if key, ok := o.own[optionSharedKey+name]; ok {
			o.own[optionSharedKey+ours] = key
		}
		b.rename(ours, name)
	}
	if !slices.ContainsFunc(slices.Collect(maps.Values(out)), func(c dockerfile.Context) bool { return c.Image == "" }) {
		// The guard has done it all, whether or not the frontend could.
		o.own[optionCaps] = dropField(o.own[optionCaps], capContexts)
	}
	for k := range o.own {
		if name, ok := strings.CutPrefix(k, optionInput); ok && request.FrontendInputs[name] == nil {
			delete(o.own, k)
		}
	}
	return out, nil
}

// capContexts is what a client asks whether the frontend can do.
const capContexts = "moby.buildkit.frontend.contexts"

func dropField(list, field string) string {
	fields := slices.DeleteFunc(strings.Split(list, ","), func(f string) bool { return f == field || strings.HasPrefix(f, field+"+") })
	return strings.Join(fields, ",")
}

// namedContexts is the API of the first Engine whose frontend knows named contexts.
const namedContexts = "1.42"

// offerFolder lets the Engine ask the client for a folder.
func (b *grpcBuild) offerFolder(o *frontendOptions, dir string) error {
	if !folderForm.MatchString(dir) {
		return badRequest("slipway: the folder's name %q is not of letters, digits and . _ + -", printable(dir))
	}
	caller, err := b.folder(o, dir)
	if err != nil {
		return err
	}
	b.files.Offer(dir, caller)
	return nil
}

// input passes on a result of another build of the job.
func (c *call) input(name string, r, request *gateway.SolveRequest) error {
	def := r.FrontendInputs[name]
	if def == nil {
		return badRequest("slipway: there is no input %s", printable(name))
	}
	if err := c.knownDefinition(def); err != nil {
		return err
	}
	if request.FrontendInputs == nil {
		request.FrontendInputs = map[string]*pb.Definition{}
	}
	request.FrontendInputs[name] = &pb.Definition{Def: def.Def, Metadata: def.Metadata}
	return c.checkInputMetadata(r.FrontendOpt[optionInput+name])
}

// checkInputMetadata reads what is said of an input: a configuration for the image that is made of it. Its triggers would
// be instructions that nobody has checked.
func (c *call) checkInputMetadata(text string) error {
	if text == "" {
		return nil
	}
	var all map[string][]byte
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return badRequest("slipway: the metadata of an input cannot be decoded")
	}
	for k, data := range all {
		if !strings.HasPrefix(k, "containerimage.config") {
			continue
		}
		var image struct{ Config struct{ OnBuild []string } }
		if err := json.Unmarshal(data, &image); err != nil {
			return badRequest("slipway: the image of an input cannot be decoded")
		}
		if len(image.Config.OnBuild) > 0 {
			return c.refuse(deny("build-onbuild", "write the instructions into the Dockerfile that is built on it", "an input has %d triggers", len(image.Config.OnBuild)))
		}
	}
	return nil
}
