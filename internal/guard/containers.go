package guard

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
)

// own finds the own container that a call is about.
func (c *call) own() (containerRecord, error) {
	rec, err := c.objects.container(c.vars["id"])
	if err == nil {
		c.ref, c.id = c.vars["id"], rec.ID
	}
	return rec, err
}

// ownPath finds the own container that a call is about, and the Engine's path for it: by its full ID, because a name may
// mean another container by the time it gets there.
func (c *call) ownPath(suffix string) (containerRecord, string, error) {
	rec, err := c.own()
	return rec, "/containers/" + rec.ID + suffix, err
}

// onOwn forwards a call about an own container with the named query keys.
func (c *call) onOwn(method, suffix string, keys ...string) error {
	_, path, err := c.ownPath(suffix)
	if err != nil {
		return err
	}
	return c.forward(method, path, c.pick(keys...), nil)
}

// keepJob refuses to change the job's own container.
func (c *call) keepJob(rec containerRecord, verb string) error {
	if !rec.Job {
		return nil
	}
	return c.refuse(deny("job-container", "start a container of the job's own for it", "the job's own container cannot be %s", verb))
}

// spareJob reports whether a container is the job's own, which commands for all containers (docker rm -f $(docker ps
// -aq)) must leave alive without failing. The call is answered then.
func (c *call) spareJob(rec containerRecord, verb string) bool {
	if !rec.Job || c.policy.Audit {
		return false
	}
	c.once("spare "+verb, fmt.Sprintf("slipway: the job's own container is not %s; its end is the end of the job", verb))
	c.empty(http.StatusNoContent)
	return true
}

func containerChanges(c *call) error { return c.onOwn(http.MethodGet, "/changes") }
func containerExport(c *call) error  { return c.onOwn(http.MethodGet, "/export") }
func containerWait(c *call) error    { return c.onOwn(http.MethodPost, "/wait", "condition") }

func containerLogs(c *call) error {
	return c.onOwn(http.MethodGet, "/logs", "follow", "stdout", "stderr", "since", "until", "timestamps", "tail", "details")
}

// psArgs are arguments of ps after which the process's number comes first, or after single words. The Engine lists all
// processes of the machine, takes the word at the number's place for the number, and says in its error what is none: with
// command lines or headers before it, a client reads others' variables word by word.
var psArgs = regexp.MustCompile(`^(-?[aAcdefFHjlLmMnrsSTuvwxXyZ]+ ?)*(-?[aAdefHwx]*o ?pid(,[a-z_]+)*)?$`)

func containerTop(c *call) error {
	_, path, err := c.ownPath("/top")
	if err != nil {
		return err
	}
	if args := c.query.Get("ps_args"); len(args) > 200 || !psArgs.MatchString(args) {
		if err := c.refuse(deny("top-args", "name columns only, the number first, as in -eo pid,comm", "ps with %q", printable(args))); err != nil {
			return err
		}
	}
	return c.forward(http.MethodGet, path, c.pick("ps_args"), nil)
}

func containerStats(c *call) error {
	_, path, err := c.ownPath("/stats")
	if err != nil {
		return err
	}
	return c.forwardStream(path, c.pick("stream", "one-shot"), func(doc map[string]any) bool {
		c.unprefixAll(doc)
		return true
	})
}

func containerResize(c *call) error {
	_, path, err := c.ownPath("/resize")
	if err != nil {
		return err
	}
	q, err := c.numbers("h", "w")
	if err != nil {
		return err
	}
	return c.forward(http.MethodPost, path, q, nil)
}

func containerStart(c *call) error {
	rec, path, err := c.ownPath("/start")
	if err != nil {
		return err
	}
	if rec.Job { // it runs: the client does
		c.empty(http.StatusNotModified)
		return nil
	}
	return c.startOwn(rec, path, c.pick("detachKeys"))
}

func containerRestart(c *call) error {
	rec, path, err := c.ownPath("/restart")
	if err != nil {
		return err
	}
	if err := c.keepJob(rec, "restarted"); err != nil {
		return err
	}
	q, err := c.numbers("t")
	if err != nil {
		return err
	}
	if s := c.query.Get("signal"); s != "" {
		q.Set("signal", s)
	}
	c.ports.stopped(rec.ID)
	return c.startOwn(rec, path, q)
}

// startOwn starts a container and opens its ports, whether the client stays or not: a container that runs without the
// ports it publishes would be a riddle.
func (c *call) startOwn(rec containerRecord, path string, q url.Values) error {
	ctx, cancel := c.lasting()
	defer cancel()
	release, err := c.beginStart(ctx, rec.ID)
	if err != nil {
		return err
	}
	defer release()
	c.watch()
	resp, err := c.engine.do(ctx, http.MethodPost, path, q, nil, nil)
	if err != nil {
		return err
	}
	defer drain(resp.Body)
	switch {
	case resp.StatusCode >= http.StatusBadRequest:
		return c.written(readError(resp))
	case resp.StatusCode == http.StatusNoContent:
		if err := c.ports.started(ctx, rec.ID); err != nil {
			return err // the container was stopped again
		}
	}
	c.empty(resp.StatusCode)
	return nil
}

func containerStop(c *call) error {
	rec, path, err := c.ownPath("/stop")
	if err != nil {
		return err
	}
	if c.spareJob(rec, "stopped") {
		return nil
	}
	q, err := c.numbers("t")
	if err != nil {
		return err
	}
	if s := c.query.Get("signal"); s != "" {
		q.Set("signal", s)
	}
	return c.forward(http.MethodPost, path, q, nil)
}

func containerKill(c *call) error {
	rec, path, err := c.ownPath("/kill")
	if isStatus(err, http.StatusNotFound) {
		words := "Cannot kill container: %s: %s" // the Engine's
		if c.engine.version.atLeast("1.42") {
			words = "cannot kill container: %s: %s"
		}
		return &apiError{http.StatusNotFound, fmt.Sprintf(words, c.vars["id"], err)}
	}
	if err != nil {
		return err
	}
	if c.spareJob(rec, "killed") {
		return nil
	}
	return c.forward(http.MethodPost, path, c.pick("signal"), nil)
}

func containerPause(c *call) error {
	rec, path, err := c.ownPath("/pause")
	if err != nil {
		return err
	}
	if err := c.keepJob(rec, "paused"); err != nil {
		return err
	}
	return c.forward(http.MethodPost, path, nil, nil)
}

func containerUnpause(c *call) error {
	rec, path, err := c.ownPath("/unpause")
	if err != nil {
		return err
	}
	ctx, cancel := c.lasting()
	defer cancel()
	release, err := c.beginStart(ctx, rec.ID)
	if err != nil {
		return err
	}
	defer release()
	return c.forward(http.MethodPost, path, nil, nil)
}

func containerRename(c *call) error {
	rec, path, err := c.ownPath("/rename")
	if err != nil {
		return err
	}
	if err := c.keepJob(rec, "renamed"); err != nil {
		return err
	}
	name, err := cleanName(c.query.Get("name"))
	if err != nil {
		return err
	}
	ctx, cancel := c.lasting()
	defer cancel()
	call := func(name string) { c.objects.update(rec.ID, func(r *containerRecord) { r.Name = name }) }
	call("") // a new container may get the old name before the answer is here, and it is not the one that is gone then
	q := url.Values{"name": {c.policy.prefix() + name}}
	if err := c.engine.callJSON(ctx, http.MethodPost, path, q, nil, nil); err != nil {
		call(rec.Name)
		return c.written(err)
	}
	call(name)
	c.empty(http.StatusNoContent)
	return nil
}

func containerRemove(c *call) error {
	rec, path, err := c.ownPath("")
	if err != nil {
		return err
	}
	if c.flag("link") {
		if err := c.refuse(deny("legacy-link", "use networks", "links between containers cannot be removed")); err != nil {
			return err
		}
	}
	if c.spareJob(rec, "removed") {
		return nil
	}
	ctx, cancel := c.lasting()
	defer cancel()
	q := url.Values{}
	for _, k := range []string{"v", "force", "link"} {
		if c.flag(k) {
			q.Set(k, "1")
		}
	}
	err = c.engine.callJSON(ctx, http.MethodDelete, path, q, nil, nil)
	if err == nil || isStatus(err, http.StatusNotFound) {
		c.forget(rec.ID)
	}
	if err != nil {
		return c.written(err)
	}
	c.empty(http.StatusNoContent)
	return nil
}

// forget ends what the guard keeps for a container that is gone.
func (g *Guard) forget(id string) {
	g.ports.stopped(id)
	g.unpin(id)
	g.objects.dropContainer(id)
	g.unpin(id)
}
