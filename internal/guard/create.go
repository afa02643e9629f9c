package guard

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
)

// nameForm is the Engine's grammar of container names.
var nameForm = regexp.MustCompile(`^/?[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// cleanName is a name that a client gives to a container.
func cleanName(name string) (string, error) {
	if !nameForm.MatchString(name) || len(name) > 200 {
		return "", badRequest("Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", printable(name))
	}
	return strings.TrimPrefix(name, "/"), nil
}

// containerCreate makes a container of the job: decode, decide, make anew.
func containerCreate(c *call) error {
	var in createRequest
	if err := c.decode(&in, createBody); err != nil {
		return err
	}
	if in.Config == nil {
		return badRequest("Config cannot be empty in order to create a container")
	}
	name, err := c.containerName()
	if err != nil {
		return err
	}
	// A container that is made must be recorded, whether or not its client still waits.
	ctx, cancel := detached(c.ctx)
	defer cancel()
	p := c.planner(ctx)
	planned, err := p.plan(name, &in)
	if err != nil {
		return err
	}
	if err := c.checkPorts(planned.ports); err != nil {
		return err
	}
	free, denied, err := c.room.reserve(ctx, planned)
	defer free()
	if err != nil {
		return err
	}
	if denied != nil {
		if err := c.refuse(denied); err != nil {
			return err
		}
	}
	rec := containerRecord{Name: name, Image: in.Image, Ports: planned.ports, Pins: map[string]string{}, Sources: map[string]string{}}
	rec.Processes = c.objects.processesOf(string(planned.host.PidMode))
	user := c.pins.User()
	request, err := p.finish(planned, c.maker(ctx, user, &rec))
	if err != nil {
		c.unpin(user)
		return c.written(err)
	}
	answer, err := c.createOnEngine(ctx, name, request)
	if err != nil {
		c.unpin(user)
		return err
	}
	rec.ID = answer.ID
	c.inherit(&rec, user, planned.host.VolumesFrom)
	c.objects.addContainer(&rec)
	if err := c.learn(ctx, rec.ID, planned); err != nil {
		return errors.Join(err, c.discard(ctx, rec))
	}
	if c.Guard.ctx.Err() != nil {
		return errors.Join(errClosing, c.discard(ctx, rec))
	}
	answer.Warnings = append(p.warnings, answer.Warnings...)
	if answer.Warnings == nil {
		answer.Warnings = []string{}
	}
	c.json(http.StatusCreated, answer)
	return nil
}

// containerName is what the client wants to call the container. A client that leaves the name to the Engine gets one from
// the guard: it is known to be the job's then, and names say whose a container is where the record is gone.
func (c *call) containerName() (string, error) {
	name := c.query.Get("name")
	if name == "" {
		random := make([]byte, 6)
		_, _ = rand.Read(random) // never fails, says its documentation
		return "unnamed-" + hex.EncodeToString(random), nil
	}
	name, err := cleanName(name)
	if err != nil {
		return "", err
	}
	if rec, err := c.objects.container(name); err == nil && rec.Job && rec.Name == name {
		return "", &apiError{http.StatusConflict, fmt.Sprintf(`Conflict. The container name "/%s" is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.`, name, rec.ID)}
	}
	return name, nil
}

// planner asks the job's objects and the Engine.
func (c *call) planner(ctx context.Context) *planner {
	return &planner{
		policy: c.policy, socket: c.Socket(), version: c.engine.version, refuse: c.refuse,
		container: func(ref string) (containerRecord, error) { return orBad(c.objects.container(ref)) },
		network:   func(ref string) (networkRecord, error) { return orBad(c.findNetwork(ref)) },
		image:     func(ref string) (image, error) { return c.readImage(ctx, ref) },
		info:      func() (engineInfo, error) { return c.engine.settings(ctx) },
	}
}

// orBad makes a bad request of what does not exist, as the Engine does at a create: docker takes 404 there for a missing
// image, and pulls it.
func orBad[T any](v T, err error) (T, error) {
	if isStatus(err, http.StatusNotFound) {
		err = badRequest("%s", err)
	}
	return v, err
}

// maker makes what the container needs and notes it in its record.
func (c *call) maker(ctx context.Context, user string, rec *containerRecord) maker {
	return maker{
		network: func() (string, error) { return c.defaultNetwork(ctx) },
		volume:  func(name string) (string, error) { return c.ensureVolume(ctx, name) },
		bind: func(m plannedMount) (boundPlace, error) {
			rec.Sources[path.Clean(m.target)] = m.source
			return c.bind(ctx, user, m, rec)
		},
	}
}

// createOnEngine makes the container. The image is named by ID there, so an error is put into the client's words.
func (c *call) createOnEngine(ctx context.Context, name string, request *container.CreateRequest) (container.CreateResponse, error) {
	query := url.Values{"name": {c.policy.prefix() + name}}
	if v := c.query.Get("platform"); v != "" && c.engine.version.atLeast("1.41") {
		query.Set("platform", v)
	}
	var answer container.CreateResponse
	err := c.engine.callJSON(ctx, http.MethodPost, "/containers/create", query, request, &answer)
	if err != nil {
		return answer, c.written(err)
	}
	for i, w := range answer.Warnings {
		answer.Warnings[i] = c.unprefix(w)
	}
	return answer, nil
}

// inherit notes what a container has from others, and that what is pinned for them and for user is pinned for it.
func (c *call) inherit(rec *containerRecord, user string, from []string) {
	var others []string
	for _, f := range from {
		id, _, _ := strings.Cut(f, ":")
		other, err := c.objects.container(id)
		if err != nil {
			continue
		}
		for target, source := range other.Sources {
			if _, ok := rec.Sources[target]; !ok {
				rec.Sources[target] = source
			}
		}
		others = append(others, other.ID)
	}
	c.pins.Hand(user, rec.ID, others...)
}

// learn records what the Engine made along with the container: volumes that only the image or the client's paths ask
// for, and ports that only the image exposes.
func (c *call) learn(ctx context.Context, id string, planned *plan) error {
	if !planned.mayHaveVolumes() && !planned.all {
		return nil
	}
	var doc struct {
		Config struct{ ExposedPorts map[string]struct{} }
		Mounts []struct{ Type, Name string }
	}
	if err := c.engine.getJSON(ctx, "/containers/"+id+"/json", nil, &doc); err != nil {
		return fmt.Errorf("look at the new container: %w", err)
	}
	foreign, err := c.runnersVolumes(ctx, planned)
	if err != nil {
		return err
	}
	for _, m := range doc.Mounts {
		if m.Type == "volume" && m.Name != "" && !foreign[m.Name] && !c.internalVolume(m.Name) && !c.isJobMount(m.Name) {
			c.objects.addVolume(m.Name)
		}
	}
	if planned.all {
		all := withExposed(planned.ports, slices.Collect(maps.Keys(doc.Config.ExposedPorts)))
		if err := c.checkPorts(all[len(planned.ports):]); err != nil {
			return err
		}
		c.objects.update(id, func(rec *containerRecord) { rec.Ports = all })
	}
	return nil
}

// runnersVolumes are the volumes that a container has from the job's own, which are not the job's to remove.
func (c *call) runnersVolumes(ctx context.Context, planned *plan) (map[string]bool, error) {
	job := c.objects.jobContainer()
	if job == "" || len(planned.host.VolumesFrom) == 0 { // which may have them from the job's own
		return nil, nil
	}
	var doc struct{ Mounts []struct{ Name string } }
	if err := c.engine.getJSON(ctx, "/containers/"+job+"/json", nil, &doc); err != nil {
		return nil, fmt.Errorf("look at the job's container: %w", err)
	}
	out := map[string]bool{}
	for _, m := range doc.Mounts {
		out[m.Name] = true
	}
	return out, nil
}

func (out *plan) mayHaveVolumes() bool {
	if len(out.config.Volumes)+len(out.image.Volumes) > 0 {
		return true
	}
	for _, m := range out.mounts {
		if m.kind == mountAnonymous {
			return true
		}
	}
	return false
}

// discard removes a container that must not stay.
func (c *call) discard(ctx context.Context, rec containerRecord) error {
	err := c.engine.callJSON(ctx, http.MethodDelete, "/containers/"+rec.ID, url.Values{"force": {"1"}, "v": {"1"}}, nil, nil)
	c.unpin(rec.ID)
	if err == nil || isStatus(err, http.StatusNotFound) {
		c.objects.dropContainer(rec.ID)
		return nil
	}
	return err // its record stays: the clean-up tries again
}
