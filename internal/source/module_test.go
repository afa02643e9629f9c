package source

import (
	"bytes"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/job"
)

// another makes a second repository on the server; commit works on it.
func (s *gitServer) another(tb testing.TB, path string) *gitServer {
	tb.Helper()
	root := filepath.Dir(filepath.Dir(s.Repo))
	o := &gitServer{URL: s.URL, Repo: filepath.Join(root, path+".git"), token: s.token}
	gitIn(tb, root, "init", "-q", "--bare", "-b", "main", o.Repo)
	return o
}

// withModules is the request of a job that wants submodules. The job finds their objects where the host has them: Git
// hands no variable on to what it runs in a submodule.
func withModules(s *Store, r Request, strategy string) Request {
	r.Submodules = Submodules{Strategy: strategy, Depth: 20}
	r.Modules = filepath.Join(s.dir, "workspaces", r.key(), r.Slot, "modules")
	return r
}

// inModule runs Git in a submodule as a job would.
func inModule(tb testing.TB, w *Workspace, path string, args ...string) string {
	tb.Helper()
	return gitWith(tb, filepath.Join(w.Dir, path), []string{"GIT_ALTERNATE_OBJECT_DIRECTORIES=" + w.ObjectsDir}, args...)
}

// family is a project with a submodule that has one itself.
func family(t *testing.T) (srv, lib *gitServer, sha string) {
	t.Helper()
	srv = newGitServer(t)
	inner := srv.another(t, "group/inner")
	innerSHA := inner.commit(t, "refs/heads/main", "", map[string]string{"deep": "deep"})
	lib = srv.another(t, "other/lib")
	libSHA := lib.commit(t, "refs/heads/main", "", map[string]string{
		"lib": "lib", "run@755": "x", "inner@module": innerSHA,
		".gitmodules": "[submodule \"inner\"]\n\tpath = inner\n\turl = ../../group/inner.git\n",
	})
	gitIn(t, lib.Repo, "tag", "v1", libSHA)
	sha = srv.commit(t, "refs/heads/main", "", map[string]string{
		"a": "a", "libs/lib@module": libSHA, "second@module": innerSHA,
		".gitmodules": "[submodule \"the lib\"]\n\tpath = libs/lib\n\turl = ../../other/lib.git\n" +
			"[submodule \"second\"]\n\tpath = second\n\turl = " + srv.URL + "/group/inner.git\n",
	})
	return srv, lib, sha
}

func TestSubmodules(t *testing.T) {
	t.Parallel()
	srv, _, sha := family(t)
	store := newStore(t)
	w, log := checkout(t, store, withModules(store, srv.pipeline(t, 1, sha), "recursive"))
	if !strings.Contains(log, "Updating/initializing submodules recursively with git depth set to 20...") || !strings.Contains(log, "Submodule path 'libs/lib/inner': checked out") {
		t.Errorf("log:\n%s", log)
	}
	if diff := cmp.Diff([]string{".gitmodules", "a", "libs/lib/.git", "libs/lib/.gitmodules", "libs/lib/inner/.git", "libs/lib/inner/deep", "libs/lib/lib", "libs/lib/run", "second/.git", "second/deep"}, names(t, w.Dir)); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
	for _, path := range []string{".", "libs/lib", "libs/lib/inner", "second"} {
		if out := inModule(t, w, path, "status", "--porcelain"); out != "" {
			t.Errorf("%s: git status: %s", path, out)
		}
		inModule(t, w, path, "fsck", "--connectivity-only")
	}
	if out := inModule(t, w, "libs/lib", "describe", "--tags"); out != "v1" {
		t.Errorf("git describe: %s", out)
	}
	if out := inModule(t, w, ".", "submodule", "status", "--recursive"); strings.Count(out, "\n") != 2 || strings.ContainsAny(out, "-+U") {
		t.Errorf("git submodule status:\n%s", out)
	}
	if out := inModule(t, w, "libs/lib", "remote", "get-url", "origin"); out != srv.URL+"/other/lib.git" {
		t.Errorf("remote: %s", out)
	}

	// The next job of the commit finds the same bytes, whatever this one did to the submodule.
	before := contents(t, w.Dir)
	lib := filepath.Join(w.Dir, "libs/lib")
	for _, err := range []error{
		os.WriteFile(filepath.Join(lib, "lib"), []byte("changed"), 0o666), os.WriteFile(filepath.Join(lib, "new"), nil, 0o666),
		os.RemoveAll(filepath.Join(lib, ".git")), os.MkdirAll(filepath.Join(lib, ".git/hooks"), 0o777),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	w, log = checkout(t, store, withModules(store, srv.pipeline(t, 2, sha), "recursive"))
	after := contents(t, w.Dir)
	for name := range after { // the file that had to be written anew is in the index of its own submodule
		if name == ".git/modules/the lib/index" {
			delete(before, name)
			delete(after, name)
		}
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("second job (-first +second):\n%s", diff)
	}
	if !strings.Contains(log, "Removing new\n") {
		t.Errorf("log:\n%s", log)
	}
	before = contents(t, w.Dir)
	w, _ = checkout(t, store, withModules(store, srv.pipeline(t, 3, sha), "recursive"))
	if diff := cmp.Diff(before, contents(t, w.Dir)); diff != "" {
		t.Errorf("untouched (-second +third):\n%s", diff)
	}

	// Fewer submodules, then none.
	w, _ = checkout(t, store, withModules(store, srv.pipeline(t, 4, sha), "normal"))
	if diff := cmp.Diff([]string{".gitmodules", "a", "libs/lib/.git", "libs/lib/.gitmodules", "libs/lib/lib", "libs/lib/run", "second/.git", "second/deep"}, names(t, w.Dir)); diff != "" {
		t.Errorf("normal (-want +got):\n%s", diff)
	}
	r := srv.pipeline(t, 5, sha)
	w, _ = checkout(t, store, r)
	if diff := cmp.Diff([]string{".gitmodules", "a"}, names(t, w.Dir)); diff != "" {
		t.Errorf("none (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(filepath.Join(store.dir, "workspaces", r.key(), r.Slot, "modules")); err == nil {
		if left, _ := filepath.Glob(filepath.Join(store.dir, "workspaces", r.key(), r.Slot, "modules", "*")); len(left) > 0 {
			t.Errorf("the job can still read %v", left)
		}
	}
}

// TestSubmoduleMoves: what was a submodule becomes a folder, a file or nothing, and back.
func TestSubmoduleMoves(t *testing.T) {
	t.Parallel()
	srv, _, sha := family(t)
	store := newStore(t)
	folder := srv.commit(t, "refs/heads/main", "", map[string]string{"libs/lib/x": "x", "second": "file"})
	none := srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a"})
	for i, c := range []struct {
		sha  string
		want []string
	}{
		{sha, []string{".gitmodules", "a", "libs/lib/.git", "libs/lib/.gitmodules", "libs/lib/lib", "libs/lib/run", "second/.git", "second/deep"}},
		{folder, []string{"libs/lib/x", "second"}},
		{sha, []string{".gitmodules", "a", "libs/lib/.git", "libs/lib/.gitmodules", "libs/lib/lib", "libs/lib/run", "second/.git", "second/deep"}},
		{none, []string{"a"}},
	} {
		for _, flags := range [][]string{nil, {"-ffd"}} {
			r := withModules(store, srv.pipeline(t, i+1, c.sha), "normal")
			r.CleanFlags = flags
			w, _ := checkout(t, store, r)
			if diff := cmp.Diff(c.want, names(t, w.Dir)); diff != "" {
				t.Errorf("step %d, %v (-want +got):\n%s", i, flags, diff)
			}
			if out := inModule(t, w, ".", "status", "--porcelain"); out != "" {
				t.Errorf("step %d: git status: %s", i, out)
			}
		}
	}
}

func TestSubmoduleChoice(t *testing.T) {
	t.Parallel()
	srv, lib, sha := family(t)
	store := newStore(t)
	tip := lib.commit(t, "refs/heads/main", "", map[string]string{"lib": "newer"})
	try := func(change func(*Submodules)) (*Workspace, string, error) {
		r := withModules(store, srv.pipeline(t, 1, sha), "normal")
		change(&r.Submodules)
		w := open(t, store, r)
		var out bytes.Buffer
		err := w.Checkout(t.Context(), &out)
		w.Close()
		return w, out.String(), err
	}
	for name, paths := range map[string][]string{
		"name": {"libs/lib"}, "folder": {"libs/"}, "pattern": {"l*b"}, "others": {":(exclude)second"}, "others, short": {":!sec*"}, "both": {"*", ":^second"},
	} {
		w, _, err := try(func(s *Submodules) { s.Paths = paths })
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := strings.Join(names(t, w.Dir), " "); !strings.Contains(got, "libs/lib/lib") || strings.Contains(got, "second") {
			t.Errorf("%s: %s", name, got)
		}
	}
	w, log, err := try(func(s *Submodules) { s.Flags = []string{"--remote", "--jobs", "4", "--depth=1", "--merge"} })
	if err != nil {
		t.Fatal(err)
	}
	if head := inModule(t, w, "libs/lib", "rev-parse", "HEAD"); head != tip {
		t.Errorf("with --remote: %s, want %s", head, tip)
	}
	if !strings.Contains(log, "GIT_SUBMODULE_UPDATE_FLAGS: --merge has no meaning") || strings.Contains(log, "--jobs") || !strings.Contains(log, "depth set to 1") {
		t.Errorf("log:\n%s", log)
	}
	for want, change := range map[string]func(*Submodules){
		`GIT_SUBMODULE_STRATEGY is "all"`:          func(s *Submodules) { s.Strategy = "all" },
		`GIT_SUBMODULE_PATHS: "x" is no submodule`: func(s *Submodules) { s.Paths = []string{"x"} },
		`":(icase)x" is not understood`:            func(s *Submodules) { s.Paths = []string{":(icase)x"} },
		`--depth "no"`:                             func(s *Submodules) { s.Flags = []string{"--depth", "no"} },
	} {
		_, _, err := try(change)
		var je *job.Error
		if !errors.As(err, &je) || je.Reason != job.ScriptFailure || je.Hint == "" || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

// TestSubmoduleOfAnotherProject: that some job could read a repository says nothing about the next job.
func TestSubmoduleOfAnotherProject(t *testing.T) {
	t.Parallel()
	srv, _, sha := family(t)
	store := newStore(t)
	checkout(t, store, withModules(store, srv.pipeline(t, 1, sha), "normal"))
	srv.set(testToken, func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/other/lib.git/") {
			http.Error(w, "not found", http.StatusNotFound)
			return true
		}
		return false
	})
	for _, project := range []int64{7, 8} {
		r := srv.pipeline(t, 2, sha)
		r.ProjectID = project
		r = withModules(store, r, "normal")
		w := open(t, store, r)
		err := w.Checkout(t.Context(), new(bytes.Buffer))
		if !errors.Is(err, ErrAuth) || !strings.Contains(err.Error(), "submodule libs/lib: ") {
			t.Errorf("project %d: got %v", project, err)
		}
		if left, _ := filepath.Glob(filepath.Join(w.ModulesDir, "*")); len(left) > 0 {
			t.Errorf("project %d can read %v", project, left)
		}
		w.Close()
	}
}

// TestHostileModules: each is refused with a reason, and nothing happens outside the project folder.
func TestHostileModules(t *testing.T) {
	t.Parallel()
	srv, lib, _ := family(t)
	libSHA := gitIn(t, lib.Repo, "rev-parse", "main")
	canary := tempDir(t)
	run := "touch " + canary + "/executed"
	foreign := newGitServer(t) // on the loopback, as what only the runner's machine can reach
	type files = map[string]string
	module := func(name, url, more string) files {
		return files{"lib@module": libSHA, ".gitmodules": "[submodule \"" + name + "\"]\n\tpath = lib\n\turl = " + url + "\n" + more}
	}
	const good = "../../other/lib.git"
	for name, c := range map[string]struct {
		files files
		want  string // "" = laid out
	}{
		"name leads out":     {module("../../x", good, ""), "is not one that Git takes"},
		"name is absolute":   {module("/etc/x", good, ""), "is not one that Git takes"},
		"name is an option":  {module("-x", good, ""), "is not one that Git takes"},
		"name with .git":     {module("a/.GIT/x", good, ""), "is not one that Git takes"},
		"ext":                {module("x", "ext::sh -c '"+run+"'", ""), "none of http and https"},
		"file":               {module("x", "file://"+lib.Repo, ""), "none of http and https"},
		"path":               {module("x", lib.Repo, ""), "none of http and https"},
		"ssh":                {module("x", "git@gitlab.example.com:other/lib.git", ""), "none of http and https"},
		"URL is an option":   {module("x", "--upload-pack="+run, ""), "is not one"},
		"URL leads above":    {module("x", "../../../../x", ""), "leads above the server"},
		"loopback":           {module("x", foreign.URL+"/group/demo.git", ""), "runner's own machine"},
		"metadata":           {module("x", "http://169.254.169.254/latest", ""), "runner's own machine"},
		"no URL":             {files{"lib@module": libSHA}, "no url found for submodule path 'lib'"},
		".gitmodules a link": {files{"lib@module": libSHA, ".gitmodules@link": canary + "/modules"}, "invalid path '.gitmodules'"},
		"not a config file":  {files{"lib@module": libSHA, ".gitmodules": "[submodule"}, "read .gitmodules"},
		"update command":     {module("x", good, "\tupdate = !"+run+"\n[core]\n\tfsmonitor = "+run+"\n[include]\n\tpath = /dev/zero\n"), ""},
		"update none":        {module("x", good, "\tupdate = none\n"), ""},
		"shared folders": {files{"lib@module": libSHA, "two@module": libSHA, ".gitmodules": "[submodule \"a\"]\n\tpath = lib\n\turl = " + good +
			"\n[submodule \"a/refs\"]\n\tpath = two\n\turl = " + good + "\n"}, "would share a folder"},
		"folder is a link": {files{"lib/sub@module": libSHA, "other@link": "lib", ".gitmodules": "[submodule \"x\"]\n\tpath = other/sub\n\turl = " + good + "\n"}, "no url found"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, branch := newStore(t), "hostile-"+strings.ReplaceAll(name, " ", "-")
			r := srv.request(srv.commit(t, "refs/heads/"+branch, "", c.files), 1)
			r.Git.Refspecs, r.Git.Ref = nil, branch
			w := open(t, store, withModules(store, r, "recursive"))
			var out bytes.Buffer
			err := w.Checkout(t.Context(), &out)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q\n%s", err, c.want, out.String())
			}
			var je *job.Error
			if err != nil && (!errors.As(err, &je) || je.Hint == "") {
				t.Errorf("no hint: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		if found := names(t, canary); len(found) > 0 {
			t.Errorf("outside: %v", found)
		}
		for _, r := range foreign.taken() {
			t.Errorf("the loopback was asked for %s", r.URL)
		}
	})
}

func TestModuleURL(t *testing.T) {
	t.Parallel()
	r := &Request{Server: "https://gitlab.example.com/git", RemoteURL: "https://gitlab.example.com/git/group/demo.git", ProjectPath: "group/demo", Submodules: Submodules{
		ForceHTTPS: true, SSH: []string{"git@gitlab.example.com:", "ssh://git@gitlab.example.com/"},
	}}
	parent, err := cleanRemote(r.RemoteURL, []string{"https"})
	if err != nil {
		t.Fatal(err)
	}
	for raw, want := range map[string]struct {
		url string
		own bool
	}{
		"../lib.git":                                {"https://gitlab.example.com/git/group/lib.git", true},
		"../../other/lib.git/":                      {"https://gitlab.example.com/git/other/lib.git", true},
		"./nested.git":                              {"https://gitlab.example.com/git/group/demo.git/nested.git", true},
		"git@gitlab.example.com:other/lib.git":      {"https://gitlab.example.com/git/other/lib.git", true},
		"ssh://git@gitlab.example.com/other/lib":    {"https://gitlab.example.com/git/other/lib", true},
		"https://u:p@GitLab.example.com:443/x.git":  {"https://GitLab.example.com:443/x.git", true},
		"http://gitlab.example.com/x.git":           {"http://gitlab.example.com/x.git", false},
		"https://gitlab.example.com.evil.org/x.git": {"https://gitlab.example.com.evil.org/x.git", false},
		"https://gitlab.example.com:8443/x.git":     {"https://gitlab.example.com:8443/x.git", false},
		"https://gitlab.example.com@evil.org/x.git": {"https://evil.org/x.git", false},
		"git@evil.org:x.git":                        {},
		"https://gitlab.example.com":                {},
		"../../../../x.git":                         {},
		"../x/../../y.git":                          {},
		"https://h/x\n.git":                         {},
		"":                                          {},
	} {
		u, err := r.moduleURL(raw, parent)
		if (err != nil) != (want.url == "") || err == nil && (u.String() != want.url || r.ofServer(u) != want.own) {
			t.Errorf("%q: got %v, %v", raw, u, err)
		}
	}
}

// names lists the files below dir, without the project's own .git.
func names(tb testing.TB, dir string) []string {
	tb.Helper()
	var out []string
	for name := range contents(tb, dir) {
		if !strings.HasPrefix(name, ".git/") {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// contents are all files below dir.
func contents(tb testing.TB, dir string) map[string]string {
	tb.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		out[name] = string(data)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return out
}
