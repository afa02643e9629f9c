package guard

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

func TestVolumeRules(t *testing.T) {
	t.Parallel()
	victim, r := newRig(t), newRig(t, func(o *Options) { o.Policy.Limits.Volumes = 2 })
	victim.must(http.StatusCreated, "POST", "/volumes/create", jsonBody{"Name": "data"}, nil)
	theirs := victim.policy.prefix() + "data"
	before := r.calls.String()
	for name, a := range map[string]struct {
		rule string
		body jsonBody
	}{
		"bind":      {"volume-opts", jsonBody{"Name": "attack", "DriverOpts": jsonBody{"type": "none", "o": "bind", "device": "/etc"}}},
		"anonymous": {"volume-opts", jsonBody{"DriverOpts": jsonBody{"type": "tmpfs", "device": "tmpfs"}}},
		"case":      {"volume-opts", jsonBody{"Name": "attack", "driveropts": jsonBody{"device": "/etc"}}},
		"driver":    {"volume-driver", jsonBody{"Name": "attack", "Driver": "nfs"}},
		"cluster":   {"volume-driver", jsonBody{"Name": "attack", "ClusterVolumeSpec": jsonBody{}}},
	} {
		status, text := r.do("POST", "/volumes/create", a.body)
		if status != http.StatusForbidden || !strings.Contains(text, "["+a.rule+"]") {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	for _, name := range []string{".hidden", "x", "a b", "../x", "/etc", "a/b"} {
		r.must(http.StatusBadRequest, "POST", "/volumes/create", jsonBody{"Name": name}, nil)
	}
	for _, ref := range []string{"data", theirs} {
		status, text := r.do("GET", "/volumes/"+ref, nil)
		if status != http.StatusNotFound || text != `{"message":"get `+ref+": no such volume\"}\n" {
			t.Errorf("%d %s", status, text)
		}
		r.must(http.StatusNotFound, "DELETE", "/volumes/"+ref, nil, nil)
		r.must(http.StatusNoContent, "DELETE", "/volumes/"+ref+"?force=1", nil, nil)
	}
	if r.calls.String() != before {
		t.Errorf("refused calls reached the Engine:\n%s", r.calls)
	}
	// Another job's name, written out, is a new volume of one's own.
	r.must(http.StatusCreated, "POST", "/volumes/create", jsonBody{"Name": theirs}, nil)
	r.must(http.StatusCreated, "POST", "/volumes/create", jsonBody{"Name": "two"}, nil)
	status, text := r.do("POST", "/volumes/create", jsonBody{"Name": "three"})
	if status != http.StatusForbidden || !strings.Contains(text, "[limit-volumes]") {
		t.Errorf("%d %s", status, text)
	}
	r.must(http.StatusOK, "POST", "/v1.41/volumes/prune", nil, nil)
	var list struct{ Volumes []any }
	r.must(http.StatusOK, "GET", "/volumes", nil, &list)
	if len(list.Volumes) != 0 {
		t.Errorf("left: %v", list.Volumes)
	}
	r.host("volume", "inspect", theirs)
}

func TestVolumeLife(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	// The guard's own tool, as it would make one.
	internal := r.policy.prefix() + ".workspace"
	r.host("volume", "create", "--label", LabelGuard+"="+r.policy.Token, internal)
	r.objects.addVolume(internal)

	var v struct {
		Name, Mountpoint string
		Labels           map[string]string
		Options          any
	}
	r.must(http.StatusCreated, "POST", "/volumes/create", jsonBody{"Name": "data", "Driver": "local", "Labels": jsonBody{"mine": "1", "slipway.guard": "x"}}, &v)
	if v.Name != "data" || v.Mountpoint != "" || v.Options != nil || len(v.Labels) != 1 {
		t.Errorf("%+v", v)
	}
	wants(t, r.host("volume", "inspect", r.policy.prefix()+"data"), `"mine": "1"`, `"slipway.guard": "`+r.policy.Token)
	r.must(http.StatusCreated, "POST", "/volumes/create", jsonBody{"Name": "data"}, &v) // again: the same
	r.must(http.StatusCreated, "POST", "/volumes/create", jsonBody{}, &v)
	anonymous := v.Name
	if len(anonymous) != 64 {
		t.Errorf("name of a nameless volume: %s", anonymous)
	}
	r.must(http.StatusOK, "GET", "/volumes/"+anonymous, nil, nil)
	c := &call{Guard: r.Guard, ctx: t.Context()}
	for ref, want := range map[string]string{"data": r.policy.prefix() + "data", "new": r.policy.prefix() + "new", anonymous: anonymous} {
		if name, err := c.ensureVolume(t.Context(), ref); err != nil || name != want {
			t.Errorf("%s: %s %v", ref, name, err)
		}
		r.host("volume", "inspect", want)
	}
	r.must(http.StatusCreated, "POST", "/containers/create?name=user", jsonBody{
		"Image": alpine, "Cmd": []string{"true"}, "HostConfig": jsonBody{"Binds": []string{"new:/x"}},
	}, nil)

	names := func(query string) []string {
		t.Helper()
		var list struct {
			Volumes []struct{ Name, Mountpoint string }
		}
		r.must(http.StatusOK, "GET", "/volumes"+query, nil, &list)
		var out []string
		for _, v := range list.Volumes {
			if v.Name == anonymous {
				v.Name = "anonymous"
			}
			if v.Mountpoint != "" {
				t.Errorf("shows %s", v.Mountpoint)
			}
			out = append(out, v.Name)
		}
		slices.Sort(out)
		return out
	}
	for filters, want := range map[string][]string{
		``:                            {"anonymous", "data", "new"},
		`{"name":["dat"]}`:            {"data"},
		`{"name":["^data$"]}`:         {"data"},
		`{"name":["slipwayjob"]}`:     nil,
		`{"label":["mine=1"]}`:        {"data"},
		`{"label":["slipway.guard"]}`: nil,
		`{"driver":["local"]}`:        {"anonymous", "data", "new"},
		`{"driver":["x"]}`:            nil,
		`{"dangling":["true"]}`:       {"anonymous", "data"},
		`{"dangling":{"0":true}}`:     {"new"},
	} {
		if got := names("?filters=" + escape(filters)); !slices.Equal(got, want) {
			t.Errorf("%s: %q", filters, got)
		}
	}
	r.must(http.StatusNotFound, "GET", "/volumes/.workspace", nil, nil)
	r.must(http.StatusNotFound, "DELETE", "/volumes/.workspace", nil, nil)
	r.must(http.StatusNotFound, "DELETE", "/volumes/"+internal, nil, nil)
	status, text := r.do("DELETE", "/volumes/new", nil)
	if status != http.StatusConflict {
		t.Errorf("%d %s", status, text)
	}
	lacks(t, text, r.policy.Token)

	r.must(http.StatusOK, "POST", "/volumes/prune?filters="+escape(`{"all":["false"]}`), nil, nil)
	if got := names(""); !slices.Equal(got, []string{"data", "new"}) {
		t.Errorf("after the first prune: %q", got)
	}
	r.must(http.StatusOK, "POST", "/v1.41/volumes/prune", nil, nil) // from 1.42 on, not those with a name
	if got := names(""); !slices.Equal(got, []string{"new"}) {
		t.Errorf("after the second prune: %q", got)
	}
	r.must(http.StatusNoContent, "DELETE", "/containers/user", nil, nil)
	r.must(http.StatusNoContent, "DELETE", "/volumes/new", nil, nil)
	r.host("volume", "inspect", internal)
}

// TestVolumesOfTheJobStay: a container that has the job's own volumes by way of another one does not make them its own.
func TestVolumesOfTheJobStay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := strings.TrimSpace(r.host("create", "--volume", "/kept", alpine, "true"))
	t.Cleanup(func() { r.host("rm", "--force", "--volumes", id) })
	r.JobContainer(id, "the-job")
	r.docker("create", "--name", "first", "--volumes-from", id, "--network", "none", alpine)
	r.docker("create", "--name", "second", "--volumes-from", "first", "--volume", "/own", "--network", "none", alpine)
	if out := r.docker("volume", "ls", "--quiet"); len(strings.Fields(out)) != 1 {
		t.Errorf("volumes: %s", out)
	}
}
