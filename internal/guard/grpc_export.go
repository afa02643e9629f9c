package guard

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"
	control "github.com/moby/buildkit/api/services/control"
)

// grpcExport is one of the places where a build's result goes.
type grpcExport struct {
	image   bool // on the Engine
	push    bool // and from there to its registry
	names   []buildTag
	written []string // the names, as the client wrote them
}

// exporters are the kinds of results that a build may have, and the attributes that each may be given. Names are no
// attribute: what they become is decided one by one.
var exporters = map[string][]string{
	"moby":      imageAttributes,
	"image":     imageAttributes,
	"local":     {"mode", "platform-split", "attestation-prefix"},
	"tar":       {"attestation-prefix", "platform-split"},
	"oci":       append([]string{"tar", "oci-artifact", "attestation-prefix"}, imageAttributes...),
	"docker":    append([]string{"tar", "attestation-prefix"}, imageAttributes...),
	"cacheonly": {},
}

var imageAttributes = []string{
	"compression", "compression-level", "force-compression", "oci-mediatypes", "oci-artifact", "unpack", "buildinfo", "store", "rewrite-timestamp", "push", "attestation-inline", "prefer-image-digest",
}

// The attributes of an exporter that are not passed on as they are.
const (
	exportName = "name"
	exportPush = "push"
)

// readExports takes the places where the result goes. Old clients name one, in fields of its own; new ones repeat the first
// there.
func (b *grpcBuild) readExports(r, request *control.SolveRequest) error {
	all := r.Exporters
	if len(all) == 0 && r.ExporterDeprecated != "" {
		all = []*control.Exporter{{Type: r.ExporterDeprecated, Attrs: r.ExporterAttrsDeprecated}}
	}
	for _, e := range all {
		if e == nil {
			continue
		}
		checked, err := b.readExport(e)
		if err != nil {
			return err
		}
		request.Exporters = append(request.Exporters, checked)
	}
	if len(request.Exporters) > 0 {
		request.ExporterDeprecated, request.ExporterAttrsDeprecated = request.Exporters[0].Type, request.Exporters[0].Attrs
	}
	return nil
}

func (b *grpcBuild) readExport(e *control.Exporter) (*control.Exporter, error) {
	allowed, ok := exporters[e.Type]
	if !ok {
		return e, b.c.refuse(deny("build-outputs", "name the image with -t, or write the files with --output DIR", "--output type=%s is no place for the result of a job's build", printable(e.Type)))
	}
	out := &control.Exporter{Type: e.Type, Attrs: map[string]string{}}
	for k, v := range e.Attrs {
		switch {
		case k == exportName:
		case slices.Contains(allowed, k) || strings.HasPrefix(k, "annotation"):
			out.Attrs[k] = v
		default:
			return e, b.c.refuse(deny("build-outputs", "leave it out", "--output type=%s,%s=…: nobody has checked what that does", printable(e.Type), printable(k)))
		}
	}
	x := &grpcExport{image: slices.Contains([]string{"moby", "image"}, e.Type)}
	b.exports = append(b.exports, x)
	if !x.image {
		// The archive is the client's own, and so are the names in it.
		if name := e.Attrs[exportName]; name != "" {
			out.Attrs[exportName] = name
		}
		return out, nil
	}
	x.push = out.Attrs[exportPush] == "true"
	delete(out.Attrs, exportPush) // the guard does it, under the name that the client wrote
	return out, b.readNames(x, e.Attrs[exportName], out)
}

// readNames takes the names of an image.
func (b *grpcBuild) readNames(x *grpcExport, names string, out *control.Exporter) error {
	if names == "" || names == "*" {
		return nil
	}
	written := strings.Split(names, ",")
	if len(written) > maxTags {
		return badRequest("slipway: a build has at most %d names", maxTags)
	}
	var stored []string
	for _, n := range written {
		named, err := reference.ParseNormalizedNamed(n)
		if err != nil {
			return badRequest("invalid reference format: %s", printable(n))
		}
		if x.push {
			if err := b.c.allowHost(b.ctx, reference.Domain(named)); err != nil {
				return err
			}
		}
		as, done, err := b.c.writeName(b.ctx, n)
		if err != nil {
			return err
		}
		x.written = append(x.written, n)
		x.names = append(x.names, buildTag{reference.TagNameOnly(named).String(), as, done})
		if as != "" {
			stored = append(stored, as)
			shown := reference.FamiliarString(reference.TagNameOnly(named))
			b.rename(as, shown)
		}
	}
	if len(stored) > 0 {
		out.Attrs[exportName] = strings.Join(stored, ",")
	}
	return nil
}

// The keys of the Engine's answer to a build.
const (
	responseDigest = "containerimage.digest"
	responseName   = "image.name"
)

// finishExports names the image that was made, and pushes it if the client wants that. response is nil if there is none.
func (b *grpcBuild) finishExports(response map[string]string) error {
	id := response[responseDigest]
	var failed error
	keep := func(err error) {
		if failed == nil {
			failed = err
		}
	}
	for _, x := range b.exports {
		if x.image && id != "" {
			keep(b.c.ownImage(b.ctx, id))
		}
		for i, t := range x.names {
			err := t.done(id)
			if err == nil && id != "" && t.stored == "" {
				b.tellName(x.written[i])
			}
			keep(err)
		}
		if x.push && id != "" && failed == nil {
			keep(b.push(x))
		}
		x.names = nil
	}
	return failed
}

// tellName shows that an image got a name, as BuildKit does for names that it gives itself.
func (b *grpcBuild) tellName(name string) {
	line, done := b.progress.Step("[internal] name the image")
	data, err := json.Marshal(map[string]string{"status": "naming to " + name + " done"})
	if err == nil {
		err = line(data)
	}
	done(err)
}

// push sends an image to its registry as POST /images/{name}/push does, with the credentials of the session.
func (b *grpcBuild) push(x *grpcExport) error {
	line, done := b.progress.Step("[internal] push the image")
	var failed error
	for _, t := range x.names {
		named, ok := mustName(t.written).(reference.NamedTagged)
		if !ok {
			return badRequest("invalid reference format: %s", printable(t.written))
		}
		auth, _, err := registryAuth(b.auth(reference.Domain(named)))
		if err == nil {
			err = b.c.push(named, auth, "", line)
		}
		if err != nil {
			failed = err
			break
		}
	}
	done(failed)
	return failed
}

// shownResponse is the Engine's answer with the names that the client wrote.
func (b *grpcBuild) shownResponse(response map[string]string) map[string]string {
	out := maps.Clone(response)
	var names []string
	for _, x := range b.exports {
		names = append(names, x.written...)
	}
	delete(out, responseName)
	if len(names) > 0 {
		out[responseName] = strings.Join(names, ",")
	}
	for k, v := range out {
		out[k] = b.written(v)
	}
	return out
}

// readCache takes where a build's cache goes to. Where one would come from is not asked: with it, its author could put
// layers under keys of the machine's cache that other projects have in common.
func (b *grpcBuild) readCache(r, request *control.CacheOptions) error {
	if r == nil {
		return nil
	}
	if len(r.Imports) > 0 || len(r.ImportRefsDeprecated) > 0 {
		b.noCacheFrom()
	}
	for _, e := range r.Exports {
		if e == nil {
			continue
		}
		checked, err := b.cacheExport(b.ctx, e)
		if err != nil {
			return err
		}
		request.Exports = append(request.Exports, checked)
	}
	if r.ExportRefDeprecated != "" {
		checked, err := b.cacheExport(b.ctx, &control.CacheOptionsEntry{Type: "registry", Attrs: map[string]string{"ref": r.ExportRefDeprecated}})
		if err != nil {
			return err
		}
		request.Exports = append(request.Exports, checked)
	}
	return nil
}

// cacheAttributes are what a cache for others may be told, beside where it goes.
var cacheAttributes = []string{"mode", "compression", "compression-level", "force-compression", "oci-mediatypes", "image-manifest", "ignore-error"}

func (b *grpcBuild) cacheExport(ctx context.Context, e *control.CacheOptionsEntry) (*control.CacheOptionsEntry, error) {
	out := &control.CacheOptionsEntry{Type: e.Type, Attrs: map[string]string{}}
	switch e.Type {
	case "inline":
	case "registry":
		named, err := reference.ParseNormalizedNamed(e.Attrs["ref"])
		if err != nil {
			return nil, badRequest("invalid reference format: %s", printable(e.Attrs["ref"]))
		}
		if err := b.c.allowHost(ctx, reference.Domain(named)); err != nil {
			return nil, err
		}
		out.Attrs["ref"] = reference.TagNameOnly(named).String()
	default:
		return e, b.c.refuse(deny("build-cache-to", "write type=registry or type=inline", "--cache-to type=%s: the Engine would write to a place that nobody has checked", printable(e.Type)))
	}
	for k, v := range e.Attrs {
		switch {
		case k == "ref":
		case slices.Contains(cacheAttributes, k):
			out.Attrs[k] = v
		default:
			return e, b.c.refuse(deny("build-cache-to", "leave it out", "--cache-to type=%s,%s=…: nobody has checked what that does", printable(e.Type), printable(k)))
		}
	}
	return out, nil
}

// cacheImports are the places of a frontend's option of that name.
func cacheImports(text string) (n int, err error) {
	var all []json.RawMessage
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return 0, badRequest("slipway: cache-imports cannot be decoded")
	}
	return len(all), nil
}
