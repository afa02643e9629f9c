package guard

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/ledger"
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
	if err := r.ownImage(r.t.Context(), raw); err != nil {
		r.t.Fatal(err)
	}
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
		if n := strings.Count(list, "\napp "); n != 1 {
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

// names are what the Engine has of names that begin so, with the images' IDs.
func (r *rig) names(prefixes ...string) string {
	r.t.Helper()
	var out []string
	for line := range strings.Lines(r.host("images", "--all", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}")) {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(line, p) }) {
			out = append(out, line)
		}
	}
	slices.Sort(out)
	return strings.Join(out, "")
}

// TestImageAttacks: whatever a job calls an image of another scope, or of the operator, it neither sees nor changes it.
func TestImageAttacks(t *testing.T) {
	t.Parallel()
	a, b := rigs(t)
	mark := fmt.Sprintf("attack-%d", os.Getpid())
	theirs := b.commitImage(mark, "b")
	mine := a.commitImage(mark+"-mine", "a")
	stored := "slipway.local/" + b.policy.Scope + "/docker.io/library/" + mark + ":latest"
	own := a.imageID(alpine)
	b.host("image", "inspect", stored)
	temporary := ledger.TemporaryName(b.policy.Scope, b.policy.Token, "x")
	if err := b.Guard.images.Borrow(temporary, b.policy.Scope, time.Now()); err != nil {
		t.Fatal(err)
	}
	b.host("tag", theirs, temporary)
	defer b.host("rmi", temporary)
	watched := []string{"slipway.local/" + b.policy.Scope + "/", alpine + " "}
	before := a.names(watched...)

	for _, ref := range []string{mark, "docker.io/library/" + mark, mark + ":latest", stored, temporary, theirs, theirs[7:], theirs[7:19], theirs[:20], "library/" + mark, "index.docker.io/library/" + mark} {
		for _, call := range []struct{ method, path string }{
			{"GET", "/images/%s/json"},
			{"GET", "/images/%s/history"},
			{"DELETE", "/images/%s?force=1"},
			{"DELETE", "/images/%s"},
			{"POST", "/images/%s/tag?repo=stolen"},
		} {
			status, body := a.do(call.method, fmt.Sprintf(call.path, ref), nil)
			if status != http.StatusNotFound || !strings.Contains(body, "No such image: "+ref) {
				t.Errorf("%s %s: %d %s", call.method, fmt.Sprintf(call.path, ref), status, body)
			}
		}
		if status, body := a.do("POST", "/images/"+ref+"/push?tag=latest", nil); status == http.StatusOK {
			t.Errorf("push %s: %s", ref, body)
		}
	}
	// Names that lead elsewhere, in every spelling.
	for _, repo := range []string{
		stored, temporary, "slipway.local/" + b.policy.Scope + "/x", alpine, "docker.io/library/" + mark, "DOCKER.IO/library/" + mark, "index.docker.io/library/" + mark,
	} {
		name, tag := splitTag(repo)
		status, body := a.do("POST", "/images/"+mine+"/tag?repo="+url.QueryEscape(name)+"&tag="+tag, nil)
		if status != http.StatusCreated {
			t.Errorf("tag %s: %d %s", repo, status, body)
		}
		// It is called so for the job itself.
		wants(t, a.docker("image", "inspect", "--format", "{{.Id}}", repo), mine)
	}
	for name, call := range map[string][2]string{
		"a form over the query": {"/images/" + mine + "/tag?repo=safe", "repo=" + alpine},
		"a digest":              {"/images/" + mine + "/tag?repo=x@" + mine, ""},
		"an algorithm":          {"/images/" + mine + "/tag?repo=sha256&tag=" + mine[7:], ""},
		"no name":               {"/images/" + mine + "/tag?tag=x", ""},
		"two names":             {"/images/" + mine + "/tag?repo=a&repo=b", ""},
		"an import":             {"/images/create?fromSrc=http://127.0.0.1:1/x&repo=" + alpine, ""},
		"an import of the body": {"/images/create?fromSrc=-&repo=x", "tar"},
		"a form over a pull":    {"/images/create?fromImage=registry.test/x&tag=1", "fromSrc=http://127.0.0.1:1/x"},
		"all tags":              {"/images/create?fromImage=registry.test/x", ""},
		"a scope's place":       {"/images/create?fromImage=slipway.local/x/y&tag=1", ""},
		"a load":                {"/images/load", "tar"},
	} {
		var body any
		if call[1] != "" {
			body = call[1]
		}
		if status, answer := a.do("POST", call[0], body, "Content-Type", "application/x-www-form-urlencoded"); status < 400 {
			t.Errorf("%s: %d %s", name, status, answer)
		}
	}
	lacks(t, a.docker("images", "--all", "--no-trunc", "--digests"), theirs)
	a.docker("image", "prune", "--force", "--all")
	if status, body := a.do("GET", "/images/json?filters="+url.QueryEscape(`{"before":["`+theirs+`"]}`), nil); status != http.StatusNotFound {
		t.Errorf("before another's: %d %s", status, body)
	}
	if after := a.names(watched...); after != before {
		t.Errorf("the Engine had\n%s\nand has\n%s", before, after)
	}
	if now := a.imageID(alpine); now != own {
		t.Error("the operator's image was changed")
	}
	for line := range strings.Lines(a.calls.String()) {
		line = strings.ReplaceAll(line, "%2F", "/")
		if strings.Contains(line, b.policy.Scope) {
			// The names are asked for as the attacker's own, never as the other's.
			if !strings.Contains(line, "slipway.local/"+a.policy.Scope+"/slipway.local/") {
				t.Errorf("reached the Engine: %s", line)
			}
		}
	}
}

func TestImageLists(t *testing.T) {
	t.Parallel()
	a := newRig(t)
	mark := fmt.Sprintf("lists-%d", os.Getpid())
	first := a.commitImage(mark+"/first:1", "first")
	a.docker("tag", first, mark+"/again")
	second := a.commitImage("registry.test:5000/"+mark+"/second:2", mark)
	dangling := a.commitImage(mark+"/first:1", "third") // takes the name, but not the other one
	a.docker("rmi", mark+"/first:1")
	_ = dangling
	for _, c := range []struct{ filters, want string }{
		{`{"reference":["` + mark + `/*"]}`, mark + "/again:latest"},
		{`{"reference":{"registry.test:5000/*/*":true}}`, "registry.test:5000/" + mark + "/second:2"},
		{`{"label":["who=` + mark + `"]}`, "registry.test:5000/" + mark + "/second:2"},
		{`{"label":["who=` + mark + `","nothing"]}`, ""},
		{`{"since":["registry.test:5000/` + mark + `/second:2"],"reference":["` + mark + `/*"]}`, ""},
		{`{"before":["` + second + `"],"reference":["` + mark + `/*:*"],"until":["1970-01-02"]}`, ""},
		{`{"dangling":["true"],"reference":["` + mark + `/*"]}`, ""},
	} {
		status, body := a.do("GET", "/v1.41/images/json?all=1&filters="+url.QueryEscape(c.filters), nil)
		var rows []struct{ RepoTags []string }
		if err := json.Unmarshal([]byte(body), &rows); err != nil || status != http.StatusOK {
			t.Fatalf("%s: %d %s", c.filters, status, body)
		}
		var got []string
		for _, r := range rows {
			got = append(got, r.RepoTags...)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %q", c.filters, got, c.want)
		}
	}
	for _, filters := range []string{`{"oops":["a"]}`, `{"dangling":["perhaps"]}`, `{"reference":["["]}`, `x`, `{"until":["x"]}`} {
		if status, body := a.do("GET", "/images/json?filters="+url.QueryEscape(filters), nil); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", filters, status, body)
		}
	}
	history := a.docker("history", "--no-trunc", mark+"/again")
	wants(t, history, first)
	lacks(t, history, "slipway.local")
}

// TestPruneRemovesWhatTheJobLeft: nameless images that the job made go, at its request or at its end, and others' stay.
func TestPruneRemovesWhatTheJobLeft(t *testing.T) {
	t.Parallel()
	a, b := rigs(t)
	gone := func(id string) bool {
		_, err := run(engineHost(), "", "image", "inspect", id)
		return err != nil
	}
	one, theirs := a.commitImage("app", "one"), b.commitImage("app", "two")
	b.docker("rmi", "--no-prune", "app")
	kept := b.commitImage("kept", "kept")
	two := a.commitImage("app", "three") // one is nameless now
	wants(t, a.docker("images", "--filter", "dangling=true", "--no-trunc", "--quiet"), one)
	wants(t, a.docker("image", "prune", "--force", "--all"), one)
	if !gone(one) || gone(two) {
		t.Error("not the nameless one was removed")
	}
	if !gone(theirs) {
		t.Error("an image without a name is left by rmi")
	}
	three := a.commitImage("app", "four")
	img, err := (&call{Guard: a.Guard, ctx: t.Context()}).readImage(t.Context(), "app")
	if err != nil {
		t.Fatal(err)
	}
	alias, err := (&call{Guard: a.Guard, ctx: t.Context()}).alias(t.Context(), img)
	if err != nil || a.imageID(alias) != three {
		t.Fatalf("%s: %v", alias, err)
	}
	if a.sees(alias) {
		t.Error("an alias is a job's to see")
	}
	if err := a.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !gone(two) || !gone(alias) || gone(three) || gone(kept) {
		t.Errorf("at the end, the nameless one is gone: %v, the alias: %v, the named ones: %v %v", gone(two), gone(alias), gone(three), gone(kept))
	}
}

// TestSameImageOfTwoJobs: jobs that build the same from the same layers get the same image, and the end of one is not
// that of the other's.
func TestSameImageOfTwoJobs(t *testing.T) {
	t.Parallel()
	a := newRig(t)
	b := newRig(t, func(o *Options) { o.Images, o.Policy.Scope = a.Guard.images, a.policy.Scope })
	id := a.commitImage("x", "both")
	for _, r := range []*rig{b, a} {
		if err := r.ownImage(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		b.docker("rmi", "--force", "x") // the name is the scope's; who takes it off lets go
		if !a.sees(id) {
			t.Error("removed for the other job, too")
		}
		b.docker("tag", alpine, "x")
	}
	if err := b.ownImage(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	wants(t, a.docker("images", "--filter", "dangling=true", "--no-trunc", "--quiet"), id)
	if err := a.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !b.sees(id) {
		t.Error("the end of one job took the image of another")
	}
	if err := b.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := run(engineHost(), "", "image", "inspect", id); err == nil {
		t.Errorf("left behind: %s", out)
	}
}

// TestImageAudit: what would be refused passes, and is told; names are the scope's all the same.
func TestImageAudit(t *testing.T) {
	t.Parallel()
	a := newRig(t, func(o *Options) { o.Policy.Audit = true })
	before := a.imageID(alpine)
	a.commitImage(alpine, "audited")
	if a.imageID(alpine) != before {
		t.Error("the operator's name was taken")
	}
}

func TestNamesLimit(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) { o.Policy.Limits.Names = 2 })
	for _, name := range []string{"one", "two", "one"} {
		r.docker("tag", alpine, name)
	}
	r.refused("limit-names", "tag", alpine, "three")
	lacks(t, r.host("image", "ls", "--format", "{{.Repository}}"), r.policy.Scope+"/docker.io/library/three")
	r.docker("tag", alpine, "two")
	r.docker("rmi", "one", "two")
}
