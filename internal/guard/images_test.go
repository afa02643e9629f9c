package guard

import (
	"strings"
	"testing"
)

// rigs opens guards of two scopes on one ledger.
func rigs(t *testing.T, change ...func(*Options)) (a, b *rig) {
	t.Helper()
	a = newRig(t, change...)
	b = newRig(t, append(change, func(o *Options) { o.Images = a.Guard.images })...)
	return a, b
}

// id is the ID of an image at the Engine.
func (r *rig) imageID(name string) string {
	r.t.Helper()
	return strings.TrimSpace(r.host("image", "inspect", "--format", "{{.Id}}", name))
}

// make gives the Engine an image of its own, whose file /who says what is in it, through the guard.
func (r *rig) commitImage(name, who string) string {
	r.t.Helper()
	// Through the Engine's own socket: the calls for containers have tests of their own.
	id := strings.TrimSpace(r.host("create", "--label", LabelGuard+".test=1", alpine, "true"))
	defer r.host("rm", id)
	raw := strings.TrimSpace(r.host("commit", "--change", "LABEL who="+who, id))
	r.objects.addImage(raw)
	r.docker("tag", raw, name)
	return raw
}

func TestTwoScopesTagTheSameName(t *testing.T) {
	t.Parallel()
	a, b := rigs(t)
	ida, idb := a.commitImage("app", "a"), b.commitImage("app", "b")
	for _, r := range []struct {
		*rig
		id string
	}{{a, ida}, {b, idb}} {
		wants(t, r.docker("image", "inspect", "--format", "{{.Id}} {{.RepoTags}}", "app"), r.id+" [app:latest]")
		wants(t, r.docker("image", "inspect", "--format", "{{.Id}}", "docker.io/library/app:latest"), r.id)
		list := r.docker("images", "--no-trunc")
		wants(t, list, r.id)
		lacks(t, list, "slipway.local")
		if n := strings.Count(list, "app "); n != 1 {
			t.Errorf("%d images are called app:\n%s", n, list)
		}
	}
	lacks(t, a.docker("images", "--no-trunc", "-a"), idb)
	for _, ref := range []string{idb, idb[7:19], strings.TrimPrefix(idb, "sha256:"), "slipway.local/" + b.policy.Scope + "/docker.io/library/app"} {
		if out, err := a.try("image", "inspect", ref); err == nil {
			t.Errorf("%s is seen: %s", ref, out)
		}
	}
	// The Engine's own names are the two, and nothing is called app.
	lacks(t, a.host("images", "--format", "{{.Repository}}"), "\napp\n")
	a.docker("rmi", "app")
	if out, err := a.try("image", "inspect", "app"); err == nil {
		t.Error(out)
	}
	wants(t, b.docker("image", "inspect", "--format", "{{.Id}}", "app"), idb)
}

func TestTagDoesNotTouchTheOperatorsName(t *testing.T) {
	t.Parallel()
	a, b := rigs(t)
	before := a.imageID(alpine)
	evil := a.commitImage(alpine, "evil")
	if now := a.imageID(alpine); now != before {
		t.Errorf("the operator's image is %s now", now)
	}
	wants(t, b.docker("image", "inspect", "--format", "{{.Id}}", alpine), before)
	wants(t, a.docker("image", "inspect", "--format", "{{.Id}}", alpine), evil)
	a.docker("rmi", alpine) // the scope's own
	wants(t, a.docker("image", "inspect", "--format", "{{.Id}}", alpine), before)
	a.docker("rmi", "-f", alpine) // the operator's: stays, and is no error
	b.docker("rmi", "-f", before)
	wants(t, b.docker("image", "inspect", "--format", "{{.Id}}", alpine), before)
	a.host("image", "inspect", alpine)
}
