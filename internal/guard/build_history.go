package guard

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"

	"github.com/slipway-ci/slipway/internal/layercache"
	"github.com/slipway-ci/slipway/internal/mishap"
	"github.com/slipway-ci/slipway/internal/progress"
	"github.com/slipway-ci/slipway/internal/wire"
)

// buildRecord is what is told of a build when it has ended.
type buildRecord struct {
	file  *checkedFile
	by    *buildRequest // its options were those that file was read with
	steps *progress.Vertices
	told  <-chan struct{}       // closed when steps has them all; nil = it has
	files *layercache.Collector // of its context
	names []string              // of the image, as they were written
	image string                // the ID of what was made, "" = nothing on the Engine
	ok    bool                  // the build was done
}

// The bounds of what is waited for: the end of the progress, what the Engine says of an image, and that with the writing.
const (
	toldTime     = 5 * time.Second
	measureTime  = 10 * time.Second
	rememberTime = measureTime + 5*time.Second
)

// pendingRecords are the builds that are being remembered, by their keys.
type pendingRecords struct {
	mu   sync.Mutex
	kept map[string]chan struct{} // closed when it is
}

// begin waits until the build before it of the same image is remembered, or ctx ends: then it is nil. Else end must be called.
func (p *pendingRecords) begin(ctx context.Context, key string) (end func()) {
	for {
		p.mu.Lock()
		before, ok := p.kept[key]
		if !ok {
			mine := make(chan struct{})
			if p.kept == nil {
				p.kept = map[string]chan struct{}{}
			}
			p.kept[key] = mine
			p.mu.Unlock()
			return func() {
				p.mu.Lock()
				defer p.mu.Unlock()
				delete(p.kept, key)
				close(mine)
			}
		}
		p.mu.Unlock()
		select {
		case <-before:
		case <-ctx.Done():
			return nil
		}
	}
}

// explain tells the job's author what of a build was cached and why the rest was not, and remembers the build for the next one.
// Its client waits only for what is told, so that the job's log has it in its place.
func (g *Guard) explain(r buildRecord) {
	if r.file == nil || g.history == nil {
		return
	}
	if r.told != nil {
		select {
		case <-r.told:
		case <-time.After(toldTime): // the client reads slowly
		case <-g.ctx.Done():
		}
	}
	now, key := r.build(), r.key()
	end := g.records.begin(g.ctx, key)
	if end == nil {
		return // the job is over
	}
	g.calls.Add(1)
	remembers := false
	defer func() {
		if !remembers {
			end()
			g.calls.Done()
		}
	}()
	last, err := g.history.Last(g.ctx, key)
	if err != nil {
		g.log.Warn("the last build cannot be looked up", "error", err)
	}
	report := now.Compare(last, g.shown)
	g.saved(report.SavedTime, report.SavedBytes)
	for _, line := range report.Lines(r.name()) {
		g.report("slipway: " + line)
	}
	remembers = true
	go func() {
		defer g.calls.Done()
		defer end()
		var err error // it is logged
		defer mishap.Catch(g.log, "what is remembered of a build", &err)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(g.ctx), rememberTime)
		defer cancel()
		now.Measure(g.layers(ctx, r.image))
		if err = g.history.Keep(ctx, key, now); err != nil {
			g.log.Warn("a build is not remembered: the next one cannot be compared with it", "error", err)
		}
	}()
}

// collector is what takes in the files of a build's context; nil if nobody will ask for them.
func (g *Guard) collector() *layercache.Collector {
	if g.history == nil {
		return nil
	}
	return &layercache.Collector{}
}

// shown is a text of a Dockerfile, or the name of a file, for the job's log. It will be cut, so what is to be masked is masked before:
// half of a secret would not be found any more.
func (g *Guard) shown(text string) string {
	for _, value := range g.masked {
		text = strings.ReplaceAll(text, value, "[MASKED]")
	}
	return strings.Map(wire.PrintableRune, text)
}

// layers is the history of an image; none if there is no image.
func (g *Guard) layers(ctx context.Context, image string) (layers []layercache.Layer) {
	if image == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, measureTime)
	defer cancel()
	if err := g.engine.getJSON(ctx, "/images/"+image+"/history", nil, &layers); err != nil {
		g.log.Debug("the sizes of an image's layers are not known", "image", image, "error", err)
	}
	return layers
}

// explain has the job's author told of a build by gRPC, if its client has one Dockerfile and wants to know the progress: the
// Engine tells it once.
func (b *grpcBuild) explain(image string, ok bool) {
	b.mu.Lock()
	copies, by := b.copies, b.by
	b.mu.Unlock()
	if len(copies) != 1 || !b.following.Load() {
		return
	}
	r := buildRecord{file: copies[0], by: by, steps: &b.vertices, told: b.followed, files: b.seen, image: image, ok: ok}
	for _, x := range b.exports {
		r.names = append(r.names, shownNames(x.written)...)
	}
	b.c.explain(r)
}

// name is what the author calls the image, "" = nothing.
func (r buildRecord) name() string {
	if len(r.names) == 0 {
		return ""
	}
	return r.names[0]
}

// key names the image from one build to the next: by its names without their tags, which often change with each commit, and by what of the
// Dockerfile is built.
func (r buildRecord) key() string {
	var names []string
	for _, n := range r.names {
		if named, err := reference.ParseNormalizedNamed(n); err == nil {
			names = append(names, named.Name())
		}
	}
	slices.Sort(names)
	sum := sha256.Sum256([]byte(strings.Join(append(slices.Compact(names), "", r.file.name, r.by.target, r.by.platform), "\n")))
	return hex.EncodeToString(sum[:16])
}

// build is what was built, for comparison.
func (r buildRecord) build() *layercache.Build {
	out := &layercache.Build{Time: time.Now(), Args: map[string]string{}, Files: r.files.Files(), NoCache: r.by.noCache}
	for name, value := range r.by.args {
		sum := sha256.Sum256([]byte(value))
		out.Args[name] = hex.EncodeToString(sum[:8])
	}
	found := r.steps.Of(r.file.file)
	for _, s := range r.file.file.Stages() {
		out.Stages = append(out.Stages, layercache.Stage{Name: s.Name, Base: s.Base})
	}
	for i, in := range r.file.file.Instructions() {
		if in.Stage < 0 {
			continue
		}
		stage := &out.Stages[in.Stage]
		if in.Keyword == "FROM" {
			stage.Line, stage.Image, stage.ID, stage.Needed = in.Line, in.Base, r.file.ids[in.Base], in.Needed
			continue
		}
		step := layercache.Step{
			Text: in.Text, Line: in.Line, Works: in.Works(), Run: in.Keyword == "RUN", Sources: in.Sources, Stages: in.Stages,
			Fetches: in.Keyword == "ADD" && strings.Contains(in.Text, "://"),
		}
		for _, name := range in.Images {
			step.Images = append(step.Images, r.file.ids[name])
		}
		if in.Works() && in.Needed {
			step.Outcome, step.Took = r.outcome(in.Keyword, found[i])
		}
		stage.Steps = append(stage.Steps, step)
	}
	return out
}

// outcome is what became of an instruction that works. BuildKit does not tell of one that it need not look at.
func (r buildRecord) outcome(keyword string, v progress.Vertex) (layercache.Outcome, time.Duration) {
	switch {
	case !v.Begun:
		if r.ok && keyword != "WORKDIR" { // one that is there in any case makes nothing
			return layercache.Cached, 0
		}
		return layercache.NotReached, 0
	case v.Failed:
		return layercache.Failed, 0
	case v.Cached:
		return layercache.Cached, 0
	case v.Ended:
		return layercache.Done, v.Took
	}
	return layercache.NotReached, 0
}

// shownNames are names as people write them.
func shownNames(written []string) []string {
	var out []string
	for _, t := range written {
		if named, err := reference.ParseNormalizedNamed(t); err == nil {
			out = append(out, reference.FamiliarString(reference.TagNameOnly(named)))
		}
	}
	return out
}
