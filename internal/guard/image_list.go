package guard

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/distribution/reference"

	"github.com/slipway-ci/slipway/internal/ledger"
	"github.com/slipway-ci/slipway/internal/wire"
)

// imageRow is one row of the Engine's list of images, as the job may see it.
type imageRow struct {
	id            string
	created       int64
	tags, digests []string
	labels        map[string]any
	doc           map[string]any // the Engine's row, with the names that the job may see
}

// visibleImages lists the images that the job may use, newest first.
func (g *Guard) visibleImages(ctx context.Context) ([]imageRow, error) {
	return g.listImages(ctx, url.Values{"all": {"1"}})
}

func (g *Guard) listImages(ctx context.Context, query url.Values) ([]imageRow, error) {
	for range tries {
		before, err := g.images.Version()
		if err != nil {
			return nil, err
		}
		rows, version, err := g.listOnce(ctx, query)
		if err != nil || version <= before { // else a name may have been lent while the Engine was asked
			return rows, err
		}
	}
	return nil, ledger.ErrBusy
}

// listOnce also tells the ledger's version of when a name that counts was last changed.
func (g *Guard) listOnce(ctx context.Context, query url.Values) (out []imageRow, version uint64, err error) {
	var rows []map[string]any
	if err := g.engine.getJSON(ctx, "/images/json", query, &rows); err != nil {
		return nil, 0, err
	}
	own, err := g.images.Names(g.policy.Scope)
	if err != nil {
		return nil, 0, err
	}
	for _, row := range rows {
		l := imageRow{doc: row, labels: g.visibleLabels(row)}
		l.id, _ = row["Id"].(string)
		if n, ok := row["Created"].(json.Number); ok {
			l.created, _ = n.Int64()
		}
		names, err := g.namesWith(own, imageDoc{ID: l.id, RepoTags: stringsOf(row["RepoTags"]), RepoDigests: stringsOf(row["RepoDigests"])})
		if err != nil {
			return nil, 0, err
		}
		version = max(version, names.version)
		if len(names.tags)+len(names.digests) == 0 && !g.objects.ownsImage(l.id) {
			continue
		}
		l.tags, l.digests = names.tags, names.digests
		row["RepoTags"], row["RepoDigests"] = names.tags, names.digests
		row["Containers"] = -1 // it would count those of others; this is "not counted"
		hideImageDetails(row)
		out = append(out, l)
	}
	return out, version, nil
}

// hideImageDetails drops where else the Engine writes the names of images.
func hideImageDetails(doc map[string]any) {
	delete(doc, "Identity")
	dropAnnotations(doc)
}

// dropAnnotations removes the annotations of descriptors, in which the containerd store keeps the name of a pull, and the
// containers that a manifest has.
func dropAnnotations(v any) {
	switch v := v.(type) {
	case map[string]any:
		if d, ok := v["Descriptor"].(map[string]any); ok {
			delete(d, "annotations")
		}
		if d, ok := v["ImageData"].(map[string]any); ok {
			d["Containers"] = []any{}
		}
		for k, e := range v {
			if k == "Descriptor" || k == "Manifests" {
				dropAnnotations(e)
			}
		}
	case []any:
		for _, e := range v {
			dropAnnotations(e)
		}
	}
}

func stringsOf(v any) []string {
	list, _ := v.([]any)
	var out []string
	for _, e := range list {
		if s, ok := e.(string); ok && s != "<none>:<none>" && s != "<none>@<none>" {
			out = append(out, s)
		}
	}
	return out
}

// imageList answers with the job's view. All filters are applied to that, so that none tells of what is not in it.
func imageList(c *call) error {
	f, err := c.readFilters("reference", "label", "dangling", "before", "since", "until")
	if err != nil {
		return err
	}
	if old := c.query.Get("filter"); old != "" { // of clients before 1.41
		f["reference"] = append(f["reference"], old)
	}
	query := c.pick("all", "digests", "shared-size", "manifests")
	if !c.engine.version.atLeast("1.42") {
		query.Del("shared-size")
	}
	if !c.engine.version.atLeast("1.47") {
		query.Del("manifests")
	}
	rows, err := c.listImages(c.ctx, query)
	if err != nil {
		return err
	}
	keep, err := c.imageFilter(f)
	if err != nil {
		return err
	}
	out := []map[string]any{}
	for _, row := range rows {
		if !keep(&row) {
			continue
		}
		if len(row.tags) == 0 && !c.version.atLeast("1.43") {
			row.doc["RepoTags"] = []string{"<none>:<none>"} // as the Engine puts it for older clients
			if len(row.digests) == 0 {
				row.doc["RepoDigests"] = []string{"<none>@<none>"}
			}
		}
		out = append(out, row.doc)
	}
	c.json(200, out)
	return nil
}

// imageFilter makes one test of a client's filters.
func (c *call) imageFilter(f wire.Filters) (func(*imageRow) bool, error) {
	nameless, set, err := f.Boolean("dangling")
	if err != nil {
		return nil, err
	}
	tests := []func(*imageRow) bool{
		func(l *imageRow) bool { return !set || (len(l.tags) == 0) == nameless },
		func(l *imageRow) bool { return f.Labels(l.labels) },
	}
	before, limited, err := f.Until(time.Now())
	if err != nil {
		return nil, err
	}
	if limited {
		tests = append(tests, func(l *imageRow) bool { return l.created < before.Unix() })
	}
	for _, v := range f["before"] {
		img, err := c.createdAt(v)
		if err != nil {
			return nil, err
		}
		tests = append(tests, func(l *imageRow) bool { return l.created < img })
	}
	for _, v := range f["since"] {
		img, err := c.createdAt(v)
		if err != nil {
			return nil, err
		}
		tests = append(tests, func(l *imageRow) bool { return l.created > img })
	}
	if patterns := f["reference"]; len(patterns) > 0 {
		for _, p := range patterns {
			if _, err := reference.FamiliarMatch(p, mustName("a")); err != nil {
				return nil, badRequest("Invalid filter 'reference=[%s]'", printable(p))
			}
		}
		tests = append(tests, func(l *imageRow) bool {
			l.tags = matching(patterns, l.tags)
			l.digests = matching(patterns, l.digests)
			l.doc["RepoTags"], l.doc["RepoDigests"] = l.tags, l.digests
			return len(l.tags)+len(l.digests) > 0
		})
	}
	return func(l *imageRow) bool {
		for _, t := range tests {
			if !t(l) {
				return false
			}
		}
		return true
	}, nil
}

// mustName reads a name of our own.
func mustName(s string) reference.Named {
	n, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		panic(err)
	}
	return n
}

func matching(patterns, names []string) []string {
	out := []string{}
	for _, n := range names {
		named, err := reference.ParseNormalizedNamed(n)
		if err != nil {
			continue
		}
		for _, p := range patterns {
			if ok, err := reference.FamiliarMatch(p, named); err == nil && ok {
				out = append(out, n)
				break
			}
		}
	}
	return out
}

// createdAt is when an image was created that the job may use.
func (c *call) createdAt(ref string) (int64, error) {
	img, err := c.readImage(c.ctx, ref)
	if err != nil {
		return 0, err
	}
	var doc struct{ Created string }
	if err := c.engine.getJSON(c.ctx, "/images/"+img.ID+"/json", nil, &doc); err != nil {
		return 0, err
	}
	if doc.Created == "" {
		return 0, nil // some tools leave it out
	}
	t, err := time.Parse(time.RFC3339Nano, doc.Created)
	if err != nil {
		return 0, fmt.Errorf("read when the image was created: %w", err)
	}
	return t.Unix(), nil
}
