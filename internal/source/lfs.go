package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/lfs"
)

// largestSettings bounds what is read of one .gitattributes or .lfsconfig, in bytes.
const largestSettings = 1 << 20

// mostPatterns bounds what Git is given of .lfsconfig.
const mostPatterns = 1000

// bringLFS puts the files that Git LFS keeps in the place of their pointers, which Git has laid out. It returns the index,
// which takes the files for those of the commit then: Git leaves them alone, here and in the job.
//
// GitLab: git lfs pull, in the project and in each submodule, unless GIT_LFS_SKIP_SMUDGE is set.
func (w *Workspace) bringLFS(ctx context.Context, idx *index, out io.Writer) (*index, error) {
	if w.req.SkipLFS {
		return idx, nil
	}
	if uses, err := w.usesLFS(idx); err != nil || !uses {
		return idx, err
	}
	conf, err := w.lfsConfig(ctx, idx)
	if err != nil {
		return nil, err
	}
	pointers, err := w.pointers(ctx, idx, conf)
	if err != nil || len(pointers) == 0 {
		return idx, err
	}
	if err := w.fetchLFS(ctx, conf, pointers, out); err != nil {
		return nil, err
	}
	stats := map[string]unix.Stat_t{}
	for name, p := range pointers {
		if stats[name], err = w.placeFile(ctx, conf.store(w.mirror), name, idx.entries[name], p); err != nil {
			return nil, withPath("write", filepath.Join(w.Dir, name), err)
		}
	}
	raw, err := idx.restat(stats)
	if err != nil {
		return nil, err
	}
	if !conf.other { // else the next checkout takes the files for changed, and asks whether its job may have them
		if err := writeWhole(w.indexFile(), string(raw)); err != nil {
			return nil, err
		}
	}
	return parseIndex(raw, len(w.req.Git.SHA)/2)
}

// usesLFS spares most projects the rest.
func (w *Workspace) usesLFS(idx *index) (bool, error) {
	for name, e := range idx.entries {
		if path.Base(name) != ".gitattributes" || !e.regular() {
			continue
		}
		text, err := w.readTracked(name, largestSettings)
		if err != nil {
			return false, withPath("read", filepath.Join(w.Dir, name), err)
		}
		if bytes.Contains(text, []byte("filter=lfs")) {
			return true, nil
		}
	}
	return false, nil
}

// readTracked reads a plain file of the commit, up to a limit.
func (w *Workspace) readTracked(name string, limit int64) ([]byte, error) {
	dir, err := w.openTracked(path.Dir(name))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), path.Base(name), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// lfsConfig is what a repository says about its files in .lfsconfig.
type lfsConfig struct {
	endpoint *url.URL
	other    bool     // the endpoint is not the repository's own
	foreign  bool     // the endpoint is on a server that must not see the job's token
	paths    []string // pathspecs of the files that are wanted
}

// store has the files of one endpoint: not all who may have the repository's own may have those of another.
func (c lfsConfig) store(m *mirror) lfs.Store {
	if !c.other {
		return m.files("lfs")
	}
	sum := sha256.Sum256([]byte(c.endpoint.String()))
	return m.files("lfs-" + hex.EncodeToString(sum[:16]))
}

// lfsConfig reads the commit's .lfsconfig. Of the settings that Git LFS takes from there, those that say where files are and
// which are wanted.
func (w *Workspace) lfsConfig(ctx context.Context, idx *index) (lfsConfig, error) {
	remote, err := cleanRemote(w.req.RemoteURL, w.req.Schemes)
	if err != nil {
		return lfsConfig{}, err
	}
	// Git LFS: docs/api/server-discovery.md.
	conf := lfsConfig{endpoint: remote.JoinPath("info/lfs"), foreign: w.req.foreign}
	if !strings.HasSuffix(remote.Path, ".git") {
		conf.endpoint = &url.URL{Scheme: remote.Scheme, Host: remote.Host, Path: strings.TrimRight(remote.Path, "/") + ".git/info/lfs"}
	}
	settings := map[string]string{}
	if e, ok := idx.entries[".lfsconfig"]; ok && e.regular() {
		list, err := w.readConfig(ctx, e, largestSettings)
		if err != nil {
			return lfsConfig{}, scriptError("mend .lfsconfig", "read .lfsconfig: %w", err)
		}
		for entry := range strings.SplitSeq(list, "\x00") {
			key, value, _ := strings.Cut(entry, "\n")
			settings[strings.ToLower(key)] = value
		}
	}
	if n := strings.Count(settings["lfs.fetchinclude"]+settings["lfs.fetchexclude"], ","); n > mostPatterns {
		return lfsConfig{}, scriptError("write fewer", "lfs.fetchinclude and lfs.fetchexclude in .lfsconfig have %d patterns, more than %d", n, mostPatterns)
	}
	conf.paths = lfsPaths(settings["lfs.fetchinclude"], settings["lfs.fetchexclude"])
	for _, key := range []string{"lfs.url", "remote.origin.lfsurl"} {
		if settings[key] == "" {
			continue
		}
		at, err := cleanRemote(settings[key], []string{"http", "https"})
		if err != nil {
			return lfsConfig{}, scriptError("give "+key+" in .lfsconfig an https address, or set GIT_LFS_SKIP_SMUDGE: \"1\" and fetch the files in the job",
				"%s in .lfsconfig: %w", key, err)
		}
		conf.other = at.String() != conf.endpoint.String()
		conf.endpoint, conf.foreign = at, w.req.foreign || !w.req.ofServer(at)
		break
	}
	return conf, nil
}

// lfsPaths makes Git's patterns of two comma-separated lists of Git LFS, which reads them as lines of .gitignore.
func lfsPaths(include, exclude string) []string {
	patterns := func(list, magic string) (out []string) {
		for p := range strings.SplitSeq(list, ",") {
			p = strings.TrimRight(strings.TrimSpace(p), "/")
			if rooted, ok := strings.CutPrefix(p, "/"); ok {
				p = rooted
			} else if p != "" && !strings.Contains(p, "/") {
				p = "**/" + p
			}
			if p != "" {
				out = append(out, ":("+magic+")"+p, ":("+magic+")"+p+"/**")
			}
		}
		return out
	}
	wanted := patterns(include, "glob,attr:filter=lfs")
	if len(wanted) == 0 {
		wanted = []string{":(attr:filter=lfs)"}
	}
	return append(wanted, patterns(exclude, "exclude,glob")...)
}

// pointers finds the files of the commit that are pointers still.
func (w *Workspace) pointers(ctx context.Context, idx *index, conf lfsConfig) (map[string]lfs.Pointer, error) {
	list := &bytes.Buffer{}
	call := w.call(append([]string{"ls-files", "-z", "--cached", "--"}, conf.paths...)...)
	call.stdout = list
	if err := w.store.git.run(ctx, call); err != nil {
		return nil, fmt.Errorf("find the files of Git LFS: %w", err)
	}
	found := map[string]lfs.Pointer{}
	for name := range strings.SplitSeq(list.String(), "\x00") {
		e, ok := idx.entries[name]
		if !ok || !e.regular() || e.len > lfs.MaxPointer {
			continue
		}
		text, err := w.readTracked(name, lfs.MaxPointer+1)
		if err != nil {
			return nil, withPath("read", filepath.Join(w.Dir, name), err)
		}
		// A file may look like a pointer, and be what a pointer stands for.
		if p, ok := lfs.ParsePointer(string(text)); ok && e.holds(int64(len(text)), bytes.NewReader(text)) {
			found[name] = p
		}
	}
	return found, nil
}

// fetchLFS brings the files to this machine.
func (w *Workspace) fetchLFS(ctx context.Context, conf lfsConfig, pointers map[string]lfs.Pointer, out io.Writer) error {
	store := conf.store(w.mirror)
	want := slices.Collect(maps.Values(pointers))
	missing, size := map[string]bool{}, int64(0)
	for _, p := range want {
		if !store.Has(p) && !missing[p.OID] {
			missing[p.OID] = true
			size += p.Size
		}
	}
	if len(missing) > 0 {
		notice(out, fmt.Sprintf("Fetching Git LFS objects: %d, %s...", len(missing), units.HumanSize(float64(size))))
	}
	tr, err := w.req.transport(conf.foreign)
	if err != nil {
		return err
	}
	defer tr.CloseIdleConnections()
	c := &lfs.Client{HTTP: &http.Client{Transport: tr, CheckRedirect: stayEncrypted}, Endpoint: conf.endpoint, UserAgent: w.req.UserAgent}
	if !conf.foreign {
		c.User, c.Password = gitUser, w.req.Token.Reveal()
	}
	// What the repository's own server gave once, any job of the project may have. What is elsewhere, not all may.
	err = c.Fetch(ctx, store, want, conf.other && !conf.foreign)
	if err != nil && ctx.Err() == nil {
		return explainLFS(err, conf.endpoint.String())
	}
	return err
}

// roundTripper makes requests over connections that it keeps for a while.
type roundTripper interface {
	http.RoundTripper
	CloseIdleConnections()
}

// transport makes connections as Git on this machine does.
func (r *Request) transport(foreign bool) (roundTripper, error) {
	if foreign {
		return foreignTransport(), nil
	}
	tr := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout: dialTimeout, ResponseHeaderTimeout: time.Minute,
	}
	if r.CAFile == "" {
		return tr, nil
	}
	pem, err := os.ReadFile(r.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read tls-ca-file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read the system's certificates: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read tls-ca-file %s: it holds no PEM certificate", r.CAFile)
	}
	tr.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return tr, nil
}

func stayEncrypted(r *http.Request, via []*http.Request) error {
	if len(via) > 5 || r.URL.Scheme != "https" && via[0].URL.Scheme == "https" {
		return fmt.Errorf("it redirects to %s, which is not followed", r.URL.Host)
	}
	if r.URL.Scheme != via[0].URL.Scheme || r.URL.Host != via[0].URL.Host { // net/http keeps it for other ports, and below the host's name
		r.Header.Del("Authorization")
	}
	return nil
}

func explainLFS(err error, endpoint string) error {
	var status *lfs.StatusError
	switch errors.As(err, &status); {
	case lfs.Unreachable(err):
		return &job.Error{
			Reason: job.ExternalDependencyFailure, Err: fmt.Errorf("fetch from %s: %w: %w", endpoint, ErrUnreachable, err),
			Hint: "the runner's machine could not talk to the LFS server; GET_SOURCES_ATTEMPTS: 3 makes a job try again",
		}
	case status == nil:
		return fmt.Errorf("fetch from %s: %w", endpoint, err)
	case strings.HasPrefix(status.What, "object "):
		return scriptError("the commit names a file that the LFS server does not give: git lfs push --all origin brings it there; with GIT_LFS_SKIP_SMUDGE: \"1\" the job gets the pointers",
			"fetch from %s: %w", endpoint, err)
	}
	return scriptError("is Git LFS switched on in the project's settings, and may the job token read it? With GIT_LFS_SKIP_SMUDGE: \"1\" the job gets the pointers",
		"fetch from %s: %w: %w", endpoint, ErrAuth, err)
}

// copiedAtOnce is how much is copied between two looks at whether the job still wants it, in bytes.
const copiedAtOnce = 64 << 20

// placeFile writes a file of Git LFS in the place of its pointer, and returns what the system says of it.
func (w *Workspace) placeFile(ctx context.Context, store lfs.Store, name string, e entry, p lfs.Pointer) (st unix.Stat_t, err error) {
	from, err := store.Open(p)
	if err != nil {
		return st, err
	}
	defer from.Close()
	dir, err := w.openTracked(path.Dir(name))
	if err != nil {
		return st, err
	}
	defer dir.Close()
	if err := unix.Unlinkat(int(dir.Fd()), path.Base(name), 0); err != nil {
		return st, err
	}
	fd, err := unix.Openat(int(dir.Fd()), path.Base(name), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return st, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { err = errors.Join(err, f.Close()) }()
	for done := false; !done; {
		if ctx.Err() != nil {
			return st, context.Cause(ctx)
		}
		_, err := io.CopyN(f, from, copiedAtOnce)
		if done = errors.Is(err, io.EOF); err != nil && !done {
			return st, err
		}
	}
	if o := w.req.Owner; o != nil {
		if err := f.Chown(o.UID, o.GID); err != nil {
			return st, err
		}
	}
	mode := uint32(0o666)
	if e.mode == 0o100755 {
		mode = 0o777
	}
	if err := unix.Fchmod(fd, mode&^uint32(w.req.Umask)); err != nil {
		return st, err
	}
	// Git reads a file again that was changed in the second of the index, or later, and would find that it is no pointer.
	past := unix.NsecToTimeval(time.Now().Add(-2 * time.Second).UnixNano())
	if err := unix.Futimes(fd, []unix.Timeval{past, past}); err != nil {
		return st, err
	}
	return st, unix.Fstat(fd, &st)
}
