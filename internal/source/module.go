package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/slipway-ci/slipway/internal/job"
)

// module is a submodule of a workspace. It is laid out like a project of its own, with a mirror of its own: by the URL,
// because several projects may have the same submodule.
type module struct {
	*Workspace
	spec   moduleSpec
	path   string // of the work tree, in the project folder
	gitDir string // in the project folder
	key    string // of the mirror
	remote *url.URL
	own    bool // on the GitLab server
	src    sources
	index  []byte
	depth  int // how many submodules it lies in
}

// module makes what a submodule needs on the host. sha is the commit that the project names.
func (w *Workspace) module(ctx context.Context, parent *module, spec moduleSpec, sha string) (_ *module, err error) {
	if err := checkModuleName(spec.name); err != nil {
		return nil, err
	}
	from, err := cleanRemote(w.req.RemoteURL, w.req.Schemes)
	if err != nil {
		return nil, err
	}
	m := &module{spec: spec, path: spec.path, gitDir: path.Join(".git/modules", spec.name)}
	state := w
	if parent != nil {
		from, state = parent.remote, parent.Workspace
		m.path, m.gitDir = path.Join(parent.path, spec.path), path.Join(parent.gitDir, "modules", spec.name)
		m.depth = parent.depth + 1
	}
	if m.remote, err = w.req.moduleURL(spec.url, from); err != nil {
		return nil, scriptError("use a relative URL like ../project.git, or https; GIT_SUBMODULE_FORCE_HTTPS: \"true\" does that for SSH URLs of this GitLab", "%w", err)
	}
	m.own = w.req.ofServer(m.remote)
	req := w.req
	req.RemoteURL, req.Schemes = m.remote.String(), []string{"http", "https"}
	req.Git = job.Git{SHA: sha, RepoObjectFormat: w.req.Git.RepoObjectFormat, Ref: spec.branch}
	if !m.own {
		// The token is for GitLab, and so are its certificates.
		req.Token, req.CAFile, req.CorrelationID = "", "", ""
		req.foreign = true
	}
	m.key = moduleKey(m.remote, m.own, req.Git.RepoObjectFormat)
	sum := sha256.Sum256([]byte(spec.path + "\n" + m.key))
	m.Workspace = &Workspace{
		Dir: filepath.Join(w.Dir, m.path), store: w.store, req: req, refetch: w.refetch,
		mirror: &mirror{dir: filepath.Join(w.store.dir, "mirrors", m.key), git: w.store.git},
		state:  filepath.Join(state.state, "modules", hex.EncodeToString(sum[:16])),
	}
	for _, d := range []string{filepath.Dir(m.state), m.state} {
		if err := privateDir(d); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	if m.use, err = hold(ctx, m.mirror.dir, useLock, shared); err != nil {
		return nil, err
	}
	return m, errors.Join(m.use.touch(), m.mirror.create(req.Git.RepoObjectFormat))
}

// moduleKey names the mirror of a URL. What came with a token and what anybody can have are kept apart. The hash is
// long, because the URL is the choice of whoever wrote .gitmodules.
func moduleKey(u *url.URL, own bool, format string) string {
	if format == "sha1" {
		format = ""
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "submodule\n%s\n%t\n%s", u, own, format))
	host := strings.Trim(unreadable.ReplaceAllString(strings.ToLower(u.Host), "-"), ".-")
	return "url-" + host[:min(40, len(host))] + "-" + hex.EncodeToString(sum[:20])
}

// fetch brings the submodule's commit into its mirror. What a mirror has already was fetched for another job, maybe of
// another project: so GitLab is asked each time whether this job may read the repository.
func (m *module) fetch(ctx context.Context, mp modulePlan) error {
	p := plan{depth: mp.depth, fetch: fetchFlags{args: []string{"--no-prune"}}}
	if p.depth == 0 && m.spec.shallow {
		p.depth = 1
	}
	if m.own || mp.remote {
		tip, err := m.ask(ctx)
		if err != nil {
			return err
		}
		if mp.remote {
			m.req.Git.SHA = tip
		}
	}
	o, err := m.store.git.objects(ctx, m.mirror.dir)
	if err != nil {
		return err
	}
	defer o.close()
	if m.src, err = m.look(o, p); err != nil || m.src.complete && !m.refetch {
		return err
	}
	if err := m.settle(ctx); err != nil {
		return err
	}
	m.src, err = m.obtain(ctx, o, p)
	if !errors.Is(err, ErrNoCommit) {
		return err
	}
	// A server may refuse to give a commit by its name, although a branch has it.
	p.refspecs = []refspec{{src: "refs/heads/*", dst: "refs/remotes/origin/*", glob: true}}
	p.depth = 0
	got, branchErr := m.obtain(ctx, o, p)
	if branchErr != nil {
		return err
	}
	got.refs, _ = m.visible(plan{}, nil, got.past)
	m.src = got
	return nil
}

// ask makes sure that this job may read the repository, and returns the commit of its branch.
func (m *module) ask(ctx context.Context) (tip string, err error) {
	if err := m.settle(ctx); err != nil {
		return "", err
	}
	ref := "HEAD"
	if m.spec.branch != "" {
		ref = "refs/heads/" + m.spec.branch
		if err := checkRef(ref); err != nil {
			return "", scriptError("correct the branch of the submodule in .gitmodules", "%w", err)
		}
	}
	var out bytes.Buffer
	err = m.store.git.run(ctx, gitCall{
		args: []string{"ls-remote", "--quiet", "--", m.req.RemoteURL, ref}, gitDir: m.mirror.dir, umask: 0o077, stdout: &out,
		config: remoteConfig(m.remote, &m.req), token: m.req.Token.Reveal(), schemes: m.req.Schemes,
	})
	if err != nil {
		return "", explainFetch(err, m.req.RemoteURL)
	}
	for line := range strings.Lines(out.String()) {
		if oid, name, _ := strings.Cut(strings.TrimSpace(line), "\t"); name == ref && isOID(oid) {
			tip = oid
		}
	}
	return tip, nil
}

// expose gives the job the packs of the mirror, under a name that depends on the URL alone. The folder is mounted
// read-only, and holds nothing but what this job may read.
func (m *module) expose(modulesDir string) error {
	dir := filepath.Join(modulesDir, m.key, "pack")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			return err
		}
	}
	files, err := filepath.Glob(filepath.Join(m.mirror.objectsDir(), "pack", "pack-*"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.Link(f, filepath.Join(dir, filepath.Base(f))); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// writeJobGit makes the submodule's Git directory below the project's, and the file that leads to it.
func (m *module) writeJobGit(root *os.Root, top *Workspace) error {
	toTree, err := filepath.Rel("/"+m.gitDir, "/"+m.path)
	if err != nil {
		return err
	}
	toGit, err := filepath.Rel("/"+m.path, "/"+m.gitDir)
	if err != nil {
		return err
	}
	g := jobGit{
		dir: m.gitDir, head: m.req.Git.SHA, refs: m.src.refs, shallow: m.src.past.boundary, index: m.index,
		format: m.req.Git.RepoObjectFormat, remote: m.req.RemoteURL, objects: path.Join(top.req.Modules, m.key), umask: top.req.Umask,
		owner: top.req.Owner,
		extra: "[core]\n\tworktree = " + quoteConfig(toTree) + "\n" + modulesConfig(top.modules, m.gitDir),
	}
	if top.req.Objects == "" {
		g.packs = filepath.Join(m.mirror.objectsDir(), "pack")
	}
	if err := g.write(root); err != nil {
		return err
	}
	return writeNew(root, path.Join(m.path, ".git"), []byte("gitdir: "+toGit+"\n"), 0o666&^top.req.Umask, top.req.Owner)
}

// modulesConfig is what git submodule init would have written for the submodules right below a Git directory.
func modulesConfig(modules []*module, gitDir string) string {
	var b strings.Builder
	for _, m := range modules {
		if parent := strings.TrimSuffix(m.gitDir, "/modules/"+m.spec.name); parent == gitDir || gitDir == "" && parent == ".git" {
			fmt.Fprintf(&b, "[submodule %s]\n\tactive = true\n\turl = %s\n", quoteSection(m.spec.name), quoteConfig(m.req.RemoteURL))
		}
	}
	return b.String()
}

// quoteSection writes a name for the head of a section, which knows fewer escapes than a value.
func quoteSection(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
