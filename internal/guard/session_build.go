package guard

import (
	"context"
	"net/http"
	"path"

	buildkit "github.com/moby/buildkit/session"

	"github.com/slipway-ci/slipway/internal/session"
)

// sessionBuild is POST /build whose files come over a session: the form of docker's client of version 20.10. The
// Dockerfile is read once, from the client; the Engine gets the checked copy over a session of the guard's own.
func sessionBuild(c *call) error {
	client, caller, err := c.sessions.find(c.ctx, c.query.Get("session"))
	if err != nil {
		return err
	}
	b, err := c.newBuild()
	if err != nil {
		return err
	}
	defer b.end()
	if b.classic {
		return badRequest("slipway: a build over a session has version 2")
	}
	b.credentials = session.Credentials(b.ctx, caller)
	out := newBuildAnswer(c, b)
	served, checked, err := b.readDockerfile(caller, dirDockerfile, nil)
	if err != nil {
		return err
	}
	out.file = checked
	files := &session.Files{Log: c.log}
	files.Offer(dirContext, caller)
	files.Collect(dirContext, out.files)
	files.Serve(dirDockerfile, served)
	services := append(c.sessionServices(caller), files)
	// The Engine's session ends with the client's.
	id, end, err := c.engineSession(caller.Context(b.ctx), client.sharedKey, services...)
	if err != nil {
		return err
	}
	defer end()
	b.options.Set("remote", "client-session")
	b.options.Set("session", id)
	query, err := b.engineQuery()
	if err != nil {
		return err
	}
	resp, err := c.engine.do(b.ctx, http.MethodPost, "/build", query, nil, nil)
	if err != nil {
		return out.fail(err)
	}
	return out.relay(resp)
}

// sessionServices are what the Engine may ask the client of a build for besides files.
func (c *call) sessionServices(client buildkit.Caller) []buildkit.Attachable {
	return session.Services(client, c.log, func(ctx context.Context, registry string) error { return c.allowHost(ctx, registryHost(registry)) })
}

// The names that docker's client gives its folders.
const (
	dirDockerfile = "dockerfile"
	dirContext    = "context"
)

// readDockerfile reads a build's Dockerfile, checks it, and returns what the Engine gets to see in its place. That lies
// in no folder, wherever the client has it.
func (b *buildRequest) readDockerfile(caller buildkit.Caller, dir string, progress func(line []byte) error) (session.Folder, *checkedFile, error) {
	ignore, lower := b.dockerfile+".dockerignore", lowerName(b.dockerfile)
	names := []string{b.dockerfile, ignore}
	if lower != "" {
		names = append(names, lower) // an empty name would stand for the whole folder
	}
	files, err := session.Read(b.ctx, caller, dir, names...)
	if err != nil {
		return session.Folder{}, nil, err
	}
	src, ok := files[b.dockerfile]
	if !ok {
		src, ok = files[lower] // the Engine's second choice
	}
	if !ok {
		return session.Folder{}, nil, badRequest("failed to read dockerfile: open %s: no such file or directory", printable(b.dockerfile))
	}
	checked, err := b.c.checkDockerfile(b.ctx, src, b, progress)
	if err != nil {
		return session.Folder{}, nil, err
	}
	name := path.Base(b.dockerfile)
	shown := map[string][]byte{name: checked.copy}
	if data, ok := files[ignore]; ok {
		shown[name+".dockerignore"] = data
	}
	served, err := session.NewFolder(shown)
	if err != nil {
		return session.Folder{}, nil, err
	}
	b.options.Set("dockerfile", name)
	return served, checked, nil
}

// output is where a build's result goes.
type output struct {
	Type  string
	Attrs map[string]string
}

// readOutputs takes results that the client itself writes: to a folder, or as an archive of the files. All others name
// images, on the Engine or in archives.
func (b *buildRequest) readOutputs() error {
	var outputs []output
	if err := b.decode("outputs", &outputs); err != nil || len(outputs) == 0 {
		return err
	}
	b.sent = true
	if kind := outputs[0].Type; len(outputs) > 1 || kind != "local" && kind != "tar" || b.c.query.Get("session") == "" {
		if err := b.c.refuse(deny("build-outputs", "name the image with -t, or write the files with --output DIR",
			"outputs=%s: an output writes images under names that nobody checked", printable(b.c.query.Get("outputs")))); err != nil {
			return err
		}
		return b.encode("outputs", outputs)
	}
	// Where the client writes is its own affair.
	return b.encode("outputs", []output{{Type: outputs[0].Type, Attrs: map[string]string{}}})
}

// uploadBuild is POST /build whose archive comes in a request of its own. Secrets and credentials come over a session.
func uploadBuild(c *call) error {
	from, err := c.sessions.uploaded(c.ctx, c.query.Get("buildid"))
	if err != nil {
		return err
	}
	defer close(from.read)
	c.query.Del("remote")
	return archiveBuild(c, from)
}

// openSession gives a build from an archive what its client offers over the session that it names, but for files. end
// must be called.
func (b *buildRequest) openSession() (end func(), err error) {
	id := b.c.query.Get("session")
	if id == "" {
		return func() {}, nil
	}
	client, caller, err := b.c.sessions.find(b.ctx, id)
	if err != nil {
		return nil, err
	}
	b.credentials = session.Credentials(b.ctx, caller)
	id, end, err = b.c.engineSession(caller.Context(b.ctx), client.sharedKey, b.c.sessionServices(caller)...)
	if err != nil {
		return nil, err
	}
	b.options.Set("session", id)
	return end, nil
}
