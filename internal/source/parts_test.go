package source

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/slipway-ci/slipway/internal/job"
)

func TestParseRefspec(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]*refspec{
		"+refs/heads/main:refs/remotes/origin/main":   {"refs/heads/main", "refs/remotes/origin/main", false},
		"refs/pipelines/1":                            {"refs/pipelines/1", "", false},
		"+refs/heads/*:refs/remotes/origin/*":         {"refs/heads/*", "refs/remotes/origin/*", true},
		"+refs/heads/ä-#'\"$;x:refs/remotes/origin/x": {"refs/heads/ä-#'\"$;x", "refs/remotes/origin/x", false},
		"refs/heads/*:refs/remotes/origin/x":          nil,
		"refs/heads/x:refs/remotes/*":                 nil,
		"refs/*/*:refs/*/*":                           nil,
		"main":                                        nil,
		"--upload-pack=x":                             nil,
		"-refs/heads/x":                               nil,
		"+refs/heads/x:refs/heads/../../x":            nil,
		"+refs/heads/x:refs/x.lock":                   nil,
		"+refs/heads/x:refs/.x":                       nil,
		"+refs/heads/x y:refs/x":                      nil,
		"+refs/heads/x\n:refs/x":                      nil,
		"+refs/heads/x:refs/x:refs/y":                 nil,
		"+refs/heads/x:refs/slipway/x":                nil,
		"":                                            nil,
		"+:":                                          nil,
	} {
		got, err := parseRefspec(in)
		if (err != nil) != (want == nil) {
			t.Errorf("%q: got %v, %v", in, got, err)
		}
		if want != nil && got != *want {
			t.Errorf("%q: got %v, want %v", in, got, *want)
		}
	}
}

func TestFetchFlags(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]fetchFlags{
		"":                                {args: []string{"--prune"}},
		"none":                            {},
		"--prune --quiet":                 {args: []string{"--prune"}},
		"--tags -v":                       {args: []string{"--tags"}, allTags: true},
		"--no-tags":                       {args: []string{"--no-tags"}, noTags: true},
		"--upload-pack=x -u x --depth=3":  {ignored: []string{"--upload-pack=x", "-u", "x", "--depth=3"}},
		"--recurse-submodules --prune -4": {args: []string{"--prune", "-4"}, ignored: []string{"--recurse-submodules"}},
	} {
		if diff := cmp.Diff(want, parseFetchFlags(Words(in)), cmp.AllowUnexported(fetchFlags{})); diff != "" {
			t.Errorf("%q: %s", in, diff)
		}
	}
}

// Flags that are let through are ones that git clean takes, in the sense in which they were understood.
func TestCleanFlagsAreGits(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	gitIn(t, dir, "init", "-q")
	rapid.Check(t, func(rt *rapid.T) {
		word := rapid.OneOf(rapid.StringMatching(`-[fdxXqnei]{1,4}`), rapid.SampledFrom([]string{"a", "--", "--exclude", "--exclude=x", "--force", "-ex", "--output=y", "-c"}))
		words := rapid.SliceOfN(word, 1, 4).Draw(rt, "words")
		if flags, err := parseCleanFlags(words); err == nil && !flags.skip {
			var out bytes.Buffer
			cmd := (&git{path: "git", home: dir}).command(t.Context(), gitCall{args: append([]string{"clean", "-n", "-f"}, words...), gitDir: filepath.Join(dir, ".git")})
			cmd.Env, cmd.Dir, cmd.Stderr = testEnv(), dir, &out
			// Both -x and -X at once is all that Git still has against them.
			if err := cmd.Run(); err != nil && !strings.Contains(out.String(), "-x and -X") {
				rt.Fatalf("git clean %q: %v\n%s", words, err, out.String())
			}
		}
	})
}

// The index is read as Git reads it.
func TestParseIndex(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	gitIn(t, dir, "init", "-q")
	files := map[string]string{}
	for i := range 20 {
		files[strings.Repeat("d/", i%4)+strings.Repeat("n", i+1)] = strings.Repeat("x", i)
	}
	put(t, dir, files)
	gitIn(t, dir, "add", ".")
	gitIn(t, dir, "update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("1", 40)+",sub")
	raw, err := os.ReadFile(filepath.Join(dir, ".git/index"))
	if err != nil {
		t.Fatal(err)
	}
	idx, err := parseIndex(raw, 20)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for name, e := range idx.entries {
		if !e.submodule() {
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
				t.Fatal(err)
			}
			if !e.looksSame(&st, 0o022) || !e.untouched(&st) {
				t.Errorf("%s is taken for changed", name)
			}
			d, err := openRoot(filepath.Dir(filepath.Join(dir, name)))
			if err != nil {
				t.Fatal(err)
			}
			if !e.sameContent(d, filepath.Base(name)) {
				t.Errorf("%s is taken for another content", name)
			}
			d.Close()
		}
		got[name] = fmt.Sprintf("%o", e.mode)
	}
	want := map[string]string{}
	for line := range strings.SplitSeq(gitIn(t, dir, "ls-files", "-s"), "\n") {
		head, name, _ := strings.Cut(line, "\t")
		want[name] = head[:6]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]bool{"": true, "d": true, "d/d": true, "d/d/d": true}, idx.dirs); diff != "" {
		t.Error(diff)
	}
	for n := range raw {
		if n < len(raw)-60*len(files) { // cut inside the entries
			if _, err := parseIndex(raw[:n], 20); err == nil && n > 0 {
				t.Errorf("an index of %d of %d bytes is taken", n, len(raw))
			}
		}
	}
}

func TestRequestIsChecked(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	good := srv.request(strings.Repeat("1", 40), 1)
	for name, change := range map[string]func(*Request){
		"no server":         func(r *Request) { r.Server = "" },
		"no project":        func(r *Request) { r.ProjectID = 0 },
		"slot above":        func(r *Request) { r.Slot = ".." },
		"slot with a slash": func(r *Request) { r.Slot = "a/b" },
		"no slot":           func(r *Request) { r.Slot = "" },
		"objects relative":  func(r *Request) { r.Objects = "x" },
		"objects, 2 lines":  func(r *Request) { r.Objects = "/x\n/y" },
		"rel outside":       func(r *Request) { r.Root, r.Rel = "/tmp", "../x" },
		"rel absolute":      func(r *Request) { r.Root, r.Rel = "/tmp", "/x" },
		"rel is all":        func(r *Request) { r.Root, r.Rel = "/tmp", "." },
		"root relative":     func(r *Request) { r.Root, r.Rel = "tmp", "x" },
	} {
		r := good
		change(&r)
		if w, err := store.Workspace(t.Context(), r); err == nil {
			w.Close()
			t.Errorf("%s: no error", name)
		}
	}
}

func TestKey(t *testing.T) {
	t.Parallel()
	base := Request{Server: "https://GitLab.example.com/sub/", ProjectID: 7}
	same := Request{Server: "https://gitlab.example.com/sub", ProjectID: 7, ProjectPath: "moved", Git: job.Git{RepoObjectFormat: "sha1"}}
	if base.key() != same.key() || !strings.HasPrefix(base.key(), "gitlab.example.com-sub-7-") {
		t.Errorf("%s and %s", base.key(), same.key())
	}
	for _, other := range []Request{
		{Server: base.Server, ProjectID: 8},
		{Server: "https://other", ProjectID: 7},
		{Server: "http://gitlab.example.com/sub", ProjectID: 7},
		{Server: base.Server, ProjectID: 7, Git: job.Git{RepoObjectFormat: "sha256"}},
		{Server: "https://../..", ProjectID: 7},
	} {
		if key := other.key(); key == base.key() || strings.ContainsAny(key, "/\\") || strings.HasPrefix(key, ".") {
			t.Errorf("%+v has the key %s", other, key)
		}
	}
}

// Jobs of one commit that start at once fetch it once.
func TestParallelSlots(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	r := srv.pipeline(t, 1, srv.commit(t, "refs/heads/main", "", sample))
	checkout(t, newStore(t), r)
	alone := len(srv.taken())
	var jobs sync.WaitGroup
	for i := range 4 {
		r := r
		r.Slot = fmt.Sprintf("slot-%d", i)
		w := open(t, store, r)
		jobs.Go(func() {
			if err := w.Checkout(t.Context(), io.Discard); err != nil {
				t.Error(err)
			}
		})
	}
	jobs.Wait()
	if n := len(srv.taken()); n != alone {
		t.Errorf("%d requests, want %d", n, alone)
	}
}

// What a hostile repository holds stays data.
func TestHostileRepository(t *testing.T) {
	t.Parallel()
	srv := newGitServer(t)
	canary := tempDir(t)
	run := "touch " + canary + "/executed"
	blob := func(text string) string {
		put(t, canary, map[string]string{"in": text})
		defer os.Remove(filepath.Join(canary, "in"))
		return gitIn(t, srv.Repo, "hash-object", "-w", filepath.Join(canary, "in"))
	}
	tree := func(lines ...string) string {
		put(t, canary, map[string]string{"in": strings.Join(lines, "\n") + "\n"})
		defer os.Remove(filepath.Join(canary, "in"))
		return gitIn(t, srv.Repo, "-c", "alias.mk=!git mktree <"+canary+"/in", "mk")
	}
	hook := tree("100755 blob " + blob("#!/bin/sh\n"+run+"\n") + "\tpost-index-change")
	config := blob("[core]\n\tfsmonitor = " + run + "\n")
	for name, c := range map[string]struct {
		tree string
		want string // "refused", "taken", or "" if that depends on Git's version
	}{
		".git in the tree":        {tree("040000 tree " + tree("040000 tree "+hook+"\thooks", "100644 blob "+config+"\tconfig") + "\t.git"), "refused"},
		".GIT in the tree":        {tree("040000 tree " + hook + "\t.GIT"), "refused"},
		"nested .git":             {tree("040000 tree " + tree("040000 tree "+hook+"\t.git") + "\td"), "refused"},
		"..":                      {tree("040000 tree " + hook + "\t.."), "refused"},
		"link and folder":         {tree("120000 blob "+blob(canary)+"\ta", "040000 tree "+hook+"\ta"), ""},
		"filters and submodules":  {tree("100644 blob "+blob("* filter=x diff=x merge=x\n[attr]evil filter=x\n")+"\t.gitattributes", "100644 blob "+blob("[submodule \"x\"]\n\tpath = s\n\turl = ext::sh -c '"+run+"'\n\tupdate = !"+run+"\n")+"\t.gitmodules", "160000 commit "+strings.Repeat("1", 40)+"\ts"), "taken"},
		"links that lead outside": {tree("120000 blob "+blob(canary)+"\ta", "120000 blob "+blob("/etc/passwd")+"\t.gitattributes", "120000 blob "+blob("/dev/zero")+"\t.gitignore"), "taken"},
	} {
		t.Run(name, func(t *testing.T) {
			commit := gitIn(t, srv.Repo, "commit-tree", "-m", "x", c.tree)
			gitIn(t, srv.Repo, "update-ref", "refs/heads/main", commit)
			store := newStore(t)
			r := srv.pipeline(t, 1, commit)
			r.CleanFlags = Words("-ffdx -e x")
			w := open(t, store, r)
			err := w.Checkout(t.Context(), io.Discard)
			if (c.want == "refused" && err == nil) || (c.want == "taken" && err != nil) {
				t.Errorf("got %v, want it %s", err, c.want)
			}
			if n := len(snapshot(t, canary)); n != 1 {
				t.Errorf("the host was touched: %v", snapshot(t, canary))
			}
			w.Close()
			// The next job is not troubled.
			good := srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a"})
			w, _ = checkout(t, store, srv.pipeline(t, 2, good))
			if got := snapshot(t, w.Dir)["a"]; got != "-rw-rw-rw- a" {
				t.Errorf("a is %q", got)
			}
		})
	}
}
