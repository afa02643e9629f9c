package guard

import (
	"context"
	"net/http"
	"net/url"
	"path"
)

// sessionBuild is POST /build whose files come over a session: the form of docker's client of version 20.10.
func sessionBuild(c *call) error {
	client, caller, err := c.sessions.find(c.ctx, c.query.Get("session"))
	if err != nil {
		return err
	}
	name := path.Clean("/" + c.query.Get("dockerfile"))[1:]
	if name == "" {
		name = "Dockerfile"
	}
	files, err := readFiles(c.ctx, caller, dirDockerfile, name, name+".dockerignore")
	if err != nil {
		return err
	}
	if _, ok := files[name]; !ok {
		return badRequest("failed to read dockerfile: open %s: no such file or directory", printable(name))
	}
	q := url.Values{}
	for k, v := range c.query {
		q[k] = v
	}
	served := servedFiles{path.Base(name): files[name]}
	if ignore, ok := files[name+".dockerignore"]; ok {
		served[path.Base(name)+".dockerignore"] = ignore
	}
	id, end, err := c.engineSession(context.WithoutCancel(c.ctx), client.sharedKey, c.sessionServices(caller, served)...)
	if err != nil {
		return err
	}
	defer end()
	q.Set("session", id)
	q.Set("dockerfile", path.Base(name))
	q.Set("buildid", c.policy.Token+"-"+c.query.Get("buildid"))
	return c.forward(http.MethodPost, "/build", q, nil)
}
