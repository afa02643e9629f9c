package guard

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/volume"

	"github.com/slipway-ci/slipway/internal/wire"
)

var volumeNameForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}$`)

// internalVolume reports whether a volume is the guard's own tool, which the job must not see. No name of the job's can
// become such a name: none begins with a dot.
func (g *Guard) internalVolume(engineName string) bool {
	return strings.HasPrefix(engineName, g.policy.prefix()+".")
}

// jobVolumes are the Engine's names of the volumes that the job sees.
func (g *Guard) jobVolumes() []string {
	return slices.DeleteFunc(g.objects.allVolumes(), g.internalVolume)
}

// findVolume is the Engine's name of an own volume.
func (c *call) findVolume(ref string) (string, error) {
	name, err := c.objects.volume(ref)
	if err == nil && c.internalVolume(name) {
		return "", noVolume(ref)
	}
	return name, err
}

func volumeCreate(c *call) error {
	var req volume.CreateRequest
	if err := c.decode(&req, smallBody); err != nil {
		return err
	}
	if req.Driver != "" && req.Driver != "local" {
		if err := c.refuse(deny("volume-driver", "leave the driver out, or use local",
			"a volume of the driver %s may lie on what is not this job's", printable(req.Driver))); err != nil {
			return err
		}
	}
	if len(req.DriverOpts) > 0 {
		if err := c.refuse(deny("volume-opts", "leave the options out; for a folder of the job use a bind, such as -v $PWD/data:/data",
			"a volume with options of its driver can be any place of the machine")); err != nil {
			return err
		}
	}
	if req.ClusterVolumeSpec != nil {
		if err := c.refuse(deny("volume-driver", "leave ClusterVolumeSpec out", "a job runs on this machine alone and has no cluster volumes")); err != nil {
			return err
		}
	}
	name, err := c.makeVolume(c.ctx, req)
	if err != nil {
		return c.written(err)
	}
	view, err := c.volumeView(name)
	if err != nil {
		return c.written(err)
	}
	c.json(http.StatusCreated, view)
	return nil
}

// ensureVolume makes sure of an own volume by the job's name for it and returns the Engine's name.
func (c *call) ensureVolume(ctx context.Context, name string) (string, error) {
	if name == "" {
		return "", badRequest("slipway: a volume without a name cannot be found again")
	}
	return c.makeVolume(ctx, volume.CreateRequest{Name: name, Driver: "local"})
}

// makeVolume makes a volume and records it. Without a name the Engine chooses one. What is there already is returned as
// it is.
func (c *call) makeVolume(ctx context.Context, req volume.CreateRequest) (string, error) {
	c.making.Lock()
	defer c.making.Unlock()
	if req.Name != "" {
		if name, err := c.findVolume(req.Name); err == nil {
			return name, nil
		}
		if !volumeNameForm.MatchString(req.Name) {
			return "", badRequest("create %s: %q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed, 2 to 128 of them. "+
				"If you intended to pass a host directory, use absolute path", printable(req.Name), printable(req.Name))
		}
		req.Name = c.policy.prefix() + req.Name
	}
	if n := len(c.jobVolumes()); n >= c.policy.Limits.Volumes {
		if err := c.refuse(deny("limit-volumes", "remove volumes that are not needed any more, or ask the machine's operator for a higher limit",
			"this job has %d volumes already", n)); err != nil {
			return "", err
		}
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	req.Labels = c.policy.labels(req.Labels)
	var made volume.Volume
	if err := c.engine.callJSON(ctx, http.MethodPost, "/volumes/create", nil, req, &made); err != nil {
		return "", err
	}
	c.objects.addVolume(made.Name)
	if c.Guard.ctx.Err() != nil {
		return "", joinErrors(errClosing, c.removeVolume(ctx, made.Name, false))
	}
	return made.Name, nil
}

func (g *Guard) removeVolume(ctx context.Context, name string, force bool) error {
	query := url.Values{}
	if force {
		query.Set("force", "1")
	}
	err := g.engine.callJSON(ctx, http.MethodDelete, "/volumes/"+name, query, nil, nil)
	if err == nil || isStatus(err, http.StatusNotFound) {
		g.objects.dropVolume(name)
	}
	return err
}

// volumeView is a volume as the job gets to see it. Where it lies on the machine is not the job's to know.
func (c *call) volumeView(name string) (map[string]any, error) {
	var doc map[string]any
	if err := c.engine.callJSON(c.ctx, http.MethodGet, "/volumes/"+name, nil, nil, &doc); err != nil {
		return nil, err
	}
	return c.showVolume(doc), nil
}

func (c *call) showVolume(doc map[string]any) map[string]any {
	doc["Mountpoint"], doc["Options"] = "", nil
	delete(doc, "ClusterVolume")
	delete(doc, "Status")
	c.visibleLabels(doc)
	return c.unprefixAll(doc).(map[string]any)
}

func volumeInspect(c *call) error {
	name, err := c.findVolume(c.vars["id"])
	if err != nil {
		return err
	}
	view, err := c.volumeView(name)
	if err != nil {
		return c.written(err)
	}
	c.json(http.StatusOK, view)
	return nil
}

func volumeRemove(c *call) error {
	name, err := c.findVolume(c.vars["id"])
	if err != nil {
		if c.flag("force") { // the Engine does not miss what it is forced to remove
			c.empty(http.StatusNoContent)
			return nil
		}
		return err
	}
	ctx, cancel := detached(c.ctx)
	defer cancel()
	if err := c.removeVolume(ctx, name, c.flag("force")); err != nil {
		return c.written(err)
	}
	c.empty(http.StatusNoContent)
	return nil
}

func volumeList(c *call) error {
	f, err := c.readFilters("dangling", "driver", "label", "name")
	if err != nil {
		return err
	}
	views, err := c.listVolumes(f)
	if err != nil {
		return c.written(err)
	}
	out := []any{}
	for _, v := range views {
		out = append(out, v.view)
	}
	c.json(http.StatusOK, map[string]any{"Volumes": out, "Warnings": nil})
	return nil
}

type listedVolume struct {
	name string // the Engine's
	view map[string]any
}

// listVolumes are the job's volumes that meet the filters.
func (c *call) listVolumes(f wire.Filters) ([]listedVolume, error) {
	dangling, set, err := f.Boolean("dangling")
	if err != nil {
		return nil, err
	}
	query := url.Values{}
	if set { // only the Engine knows; the name is not its business
		query.Set("filters", fmt.Sprintf(`{"dangling":["%t"]}`, dangling))
	}
	var list struct{ Volumes []map[string]any }
	if err := c.engine.callJSON(c.ctx, http.MethodGet, "/volumes", query, nil, &list); err != nil {
		return nil, err
	}
	own := c.jobVolumes()
	var out []listedVolume
	for _, doc := range list.Volumes {
		name, _ := doc["Name"].(string)
		if !slices.Contains(own, name) {
			continue
		}
		view := c.showVolume(doc)
		labels, _ := view["Labels"].(map[string]any)
		if f.Match("name", c.unprefix(name)) && f.Exact("driver", fmt.Sprint(view["Driver"])) && f.Labels(labels) {
			out = append(out, listedVolume{name, view})
		}
	}
	return out, nil
}

func volumePrune(c *call) error {
	f, err := c.readFilters("label", "label!", "all")
	if err != nil {
		return err
	}
	all, set, err := f.Boolean("all")
	if err != nil {
		return err
	}
	// Since 1.42 only volumes without a name go, unless all are asked for.
	if !c.version.atLeast("1.42") && !set {
		all = true
	}
	unused, err := c.listVolumes(wire.Filters{"dangling": {"true"}, "label": f["label"], "label!": f["label!"]})
	if err != nil {
		return c.written(err)
	}
	ctx, cancel := detached(c.ctx)
	defer cancel()
	removed := []string{}
	for _, v := range unused {
		if named := strings.HasPrefix(v.name, c.policy.prefix()); named && !all {
			continue
		}
		if err := c.removeVolume(ctx, v.name, false); err == nil { // else it came into use at this moment
			removed = append(removed, c.unprefix(v.name))
		}
	}
	c.json(http.StatusOK, volume.PruneReport{VolumesDeleted: removed})
	return nil
}
