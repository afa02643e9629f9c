package guard

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/distribution/reference"

	"github.com/slipway-ci/slipway/internal/dockerfile"
	"github.com/slipway-ci/slipway/internal/progress"
	"github.com/slipway-ci/slipway/internal/wire"
)

// buildRequest is what a client's query asks for, checked.
type buildRequest struct {
	c        *call
	vertices progress.Vertices
	ctx      context.Context
	cancel   context.CancelFunc
	id       string // at the Engine
	clientID string

	classic    bool // the client wants the classic builder's answer
	quiet      bool
	pull       bool
	noCache    bool   // no step may come out of the build cache
	dockerfile string // clean, relative
	target     string
	platform   string // "" = the Engine's
	args       map[string]string
	contexts   map[string]dockerfile.Context // named ones, of builds by gRPC
	auths      map[string]json.RawMessage    // by registry host, as X-Registry-Config had them
	// credentials asks the client of a session for X-Registry-Auth; nil without one.
	credentials func(host string) string
	options     url.Values // for the Engine, without names
	sent        bool       // the result goes to the client over its session, and no image is made
	tags        []buildTag
}

// maxTags bounds the names of one image.
const maxTags = 100

// buildTag is a name for the image.
type buildTag struct {
	written string // as the client wrote it, with its tag
	stored  string // on the Engine, "" if it is named afterwards
	done    func(id string) error
}

// saltHost begins the name of an extra host that tells the steps of one scope from those of all others. The names of a
// step's extra hosts are part of its key in the build cache; what else decides over a step's result, such as proxies,
// secrets, other hosts' addresses or a cache mount's contents, is not.
func (p Policy) saltHost() string { return "p" + p.Scope + saltSuffix }

const saltSuffix = ".guard.invalid"

// newBuild reads the query of a build and counts the build in. end must be called.
func (c *call) newBuild() (*buildRequest, error) {
	b := &buildRequest{c: c, clientID: c.query.Get("buildid"), options: url.Values{}}
	if err := b.readAll(); err != nil {
		return nil, err
	}
	b.ctx, b.cancel = context.WithCancel(c.ctx) // before anybody can find the build
	if err := c.builds.begin(b); err != nil {
		b.cancel()
		return nil, err
	}
	return b, nil
}

// readAll reads the query, or the options of a build by gRPC in the form of one.
func (b *buildRequest) readAll() error {
	for _, read := range []func() error{b.readForm, b.readNetwork, b.readRefused, b.readOutputs, b.readHosts, b.readArgs, b.readLabels, b.readLimits, b.readAuths} {
		if err := read(); err != nil {
			return err
		}
	}
	return nil
}

// end counts the build out.
func (b *buildRequest) end() {
	b.cancel()
	b.c.builds.end(b)
}

// engineQuery is the query for the Engine. It takes the names that the image gets; finish must be called then.
func (b *buildRequest) engineQuery() (url.Values, error) {
	if n := len(b.c.query["t"]); n > maxTags {
		return nil, badRequest("slipway: a build has at most %d names", maxTags)
	}
	for _, t := range b.c.query["t"] {
		if t == "" {
			continue
		}
		named, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			return nil, badRequest("invalid reference format: %s", printable(t))
		}
		stored, done, err := b.c.writeName(b.ctx, t)
		if err != nil {
			return nil, err
		}
		b.tags = append(b.tags, buildTag{reference.FamiliarString(reference.TagNameOnly(named)), stored, done})
		if stored != "" {
			b.options.Add("t", stored)
		}
	}
	b.options.Set("version", "2")
	b.options.Set("buildid", b.id)
	return b.options, nil
}

// finish tells of the image that was made, "" if there is none.
func (b *buildRequest) finish(id string) error {
	var failed error
	if id != "" {
		failed = b.c.ownImage(b.ctx, id)
	}
	for _, t := range b.tags {
		if err := t.done(id); err != nil && failed == nil {
			failed = err
		}
	}
	b.tags = nil
	return failed
}

var (
	targetForm   = regexp.MustCompile(`^[A-Za-z0-9_.-]*$`)
	platformForm = regexp.MustCompile(`^[a-zA-Z0-9_.-]+(/[a-zA-Z0-9_.-]+){0,2}$`)
	hostForm     = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
)

// readForm reads what is built and how it is told.
func (b *buildRequest) readForm() error {
	c := b.c
	b.classic = c.query.Get("version") != "2"
	b.quiet, b.pull = c.flag("q"), c.flag("pull")
	if v := c.query.Get("version"); v != "" && v != "1" && v != "2" {
		return badRequest("invalid version %q", printable(v))
	}
	name := c.query.Get("dockerfile")
	if name == "" {
		name = "Dockerfile"
	}
	b.dockerfile = path.Clean("/" + name)[1:]
	if b.dockerfile == "" || len(name) > 1024 || strings.ContainsAny(name, "\x00\n\r") {
		return badRequest("Cannot locate specified Dockerfile: %s", printable(name))
	}
	b.options.Set("dockerfile", b.dockerfile)
	if b.target = c.query.Get("target"); b.target != "" {
		if !targetForm.MatchString(b.target) {
			return badRequest("target stage %q could not be found", printable(b.target))
		}
		b.options.Set("target", b.target)
	}
	if p := c.query["platform"]; len(p) > 1 {
		return badRequest("slipway: a build is for one platform")
	} else if len(p) == 1 && p[0] != "" {
		if !platformForm.MatchString(p[0]) {
			return badRequest("%q is an invalid component of a platform", printable(p[0]))
		}
		b.platform = p[0]
		if !strings.Contains(b.platform, "/") {
			b.platform = "linux/" + b.platform
		}
		b.options.Set("platform", b.platform)
	}
	if b.noCache = c.flag("nocache"); b.noCache {
		b.options.Set("nocache", "1")
	}
	return nil
}

// readNetwork decides over the network of the build's steps.
func (b *buildRequest) readNetwork() error {
	switch mode := b.c.query.Get("networkmode"); mode {
	case "", "default", "bridge":
	case "none":
		b.options.Set("networkmode", "none")
	case "host":
		b.options.Set("networkmode", "host") // audit mode goes on
		return b.c.refuse(deny("build-network-host", "leave --network out", "--network host gives a build's steps the machine's own network"))
	default:
		return b.c.refuse(deny("build-network", "run what needs the network with docker run, and commit it or COPY its result; or leave --network out",
			"the Engine's builder cannot use the network %s", printable(mode)))
	}
	return nil
}

// readRefused refuses what no build of a job may ask for.
func (b *buildRequest) readRefused() error {
	c := b.c
	for _, r := range []struct{ key, rule, cure, what string }{
		{"squash", "build-squash", "use stages to make an image small", "images cannot be squashed"},
		{"securityopt", "build-security", "leave --security-opt out", "the security of a build's steps cannot be changed"},
		{"isolation", "build-isolation", "leave --isolation out", "there is one isolation"},
	} {
		v := c.query.Get(r.key)
		if v == "" || v == "[]" || v == "null" || r.key == "squash" && !c.flag("squash") || r.key == "isolation" && v == "default" {
			continue
		}
		if err := c.refuse(deny(r.rule, r.cure, "%s: %s", r.key+"="+printable(v), r.what)); err != nil {
			return err
		}
	}
	if v := c.query.Get("cachefrom"); v != "" && v != "[]" && v != "null" {
		b.noCacheFrom()
	}
	if remote := c.query.Get("remote"); remote != "" && remote != "client-session" {
		b.options.Set("remote", remote) // audit mode goes on
		return c.refuse(deny("build-remote", "fetch it in the job and build from the folder",
			"the Engine would fetch %s itself, from a place that the job may not reach", shownURL(remote)))
	}
	return nil
}

// noCacheFrom says that a cache from elsewhere is not used. With one, its author could put layers under keys of the
// machine's build cache that projects have in common: those of the steps before the first RUN.
func (b *buildRequest) noCacheFrom() {
	b.c.once("cachefrom", "slipway: --cache-from is not used: steps come out of the build cache that this project has on the machine")
}

// readHosts takes the client's extra hosts and adds the scope's.
func (b *buildRequest) readHosts() error {
	for _, h := range b.c.query["extrahosts"] {
		if h == "" {
			continue
		}
		i := strings.IndexAny(h, ":=")
		if i <= 0 || !hostForm.MatchString(h[:i]) {
			return badRequest("invalid add-host: %q", printable(h))
		}
		name, address := h[:i], strings.Trim(h[i+1:], "[]")
		if a, err := netip.ParseAddr(address); (err != nil || a.Zone() != "") && address != "host-gateway" { // a zone can be any text
			return badRequest("invalid IP address in add-host: %q", printable(address))
		}
		if strings.HasSuffix(strings.TrimRight(strings.ToLower(name), "."), saltSuffix) {
			continue
		}
		b.options.Add("extrahosts", name+":"+address)
	}
	b.options.Add("extrahosts", b.c.policy.saltHost()+":127.0.0.1")
	return nil
}

// cacheNamespace is the build argument by which BuildKit keeps the cache mounts of scopes apart.
const cacheNamespace = "BUILDKIT_CACHE_MOUNT_NS"

// readArgs takes the client's build arguments, but for those that steer BuildKit itself.
func (b *buildRequest) readArgs() error {
	var args map[string]*string
	if err := b.decode("buildargs", &args); err != nil {
		return err
	}
	b.args = map[string]string{}
	for k, v := range args {
		if v == nil || strings.HasPrefix(strings.ToUpper(k), "BUILDKIT_") && k != "BUILDKIT_INLINE_CACHE" {
			continue
		}
		b.args[k] = *v
	}
	forEngine := map[string]string{cacheNamespace: b.c.policy.Scope}
	maps.Copy(forEngine, b.args)
	return b.encode("buildargs", forEngine)
}

func (b *buildRequest) readLabels() error {
	var labels map[string]string
	if err := b.decode("labels", &labels); err != nil {
		return err
	}
	if err := b.checkBuildSecrets(labels); err != nil || len(labels) == 0 {
		return err
	}
	for k := range labels {
		if ownLabel(k) {
			delete(labels, k)
		}
	}
	return b.encode("labels", labels)
}

// ulimit is one of Docker's.
type ulimit struct {
	Name string
	Hard int64
	Soft int64
}

// maxUlimit is as many files and processes as a step may ask for.
const maxUlimit = 1 << 20

// readLimits takes what is kept below the job's limits. Others, such as memory, BuildKit does not know.
func (b *buildRequest) readLimits() error {
	if v := b.c.query.Get("shmsize"); v != "" {
		size, err := strconv.ParseInt(v, 10, 64)
		if err != nil || size < 0 {
			return badRequest("invalid shmsize %q", printable(v))
		}
		if size = min(size, b.c.policy.Limits.ShmSize); size > 0 {
			b.options.Set("shmsize", strconv.FormatInt(size, 10))
		}
	}
	var limits []*ulimit
	if err := b.decode("ulimits", &limits); err != nil || len(limits) == 0 {
		return err
	}
	for _, l := range limits {
		if l == nil || strings.Trim(l.Name, "abcdefghijklmnopqrstuvwxyz") != "" {
			return badRequest("invalid ulimit")
		}
		if l.Name == "nofile" || l.Name == "nproc" {
			for _, n := range []*int64{&l.Hard, &l.Soft} {
				if *n < 0 || *n > maxUlimit {
					*n = maxUlimit
				}
			}
		}
	}
	return b.encode("ulimits", limits)
}

// readAuths reads the credentials that docker's client sends along, for all registries that it knows.
func (b *buildRequest) readAuths() error {
	header := b.c.r.Header.Get("X-Registry-Config")
	if header == "" {
		return nil
	}
	data, err := base64.URLEncoding.DecodeString(header)
	if err != nil {
		if data, err = base64.StdEncoding.DecodeString(header); err != nil {
			return badRequest("slipway: X-Registry-Config is not base64url")
		}
	}
	var all map[string]json.RawMessage
	if err := checkKeys(data, &all); err != nil {
		return badRequest("slipway: X-Registry-Config cannot be decoded: %v", err)
	}
	b.auths = map[string]json.RawMessage{}
	for server, a := range all {
		b.auths[registryHost(server)] = a
	}
	return nil
}

// auth is X-Registry-Auth for an image's registry, "" = none.
func (b *buildRequest) auth(host string) string {
	a, ok := b.auths[host]
	if !ok {
		if b.credentials != nil {
			return b.credentials(host)
		}
		return ""
	}
	return base64.URLEncoding.EncodeToString(a)
}

// decode reads a parameter that is JSON.
func (b *buildRequest) decode(key string, v any) error {
	text := b.c.query.Get(key)
	if text == "" {
		return nil
	}
	if err := checkKeys([]byte(text), v); err != nil {
		return badRequest("slipway: %s cannot be decoded: %v", key, err)
	}
	return nil
}

// checkKeys decodes JSON whose topmost keys are the client's own, so that they may differ in case alone.
func checkKeys(data []byte, v any) error {
	if err := wire.Check([]byte(`{"options":` + string(data) + `}`)); err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

func (b *buildRequest) encode(key string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", key, err)
	}
	b.options.Set(key, string(data))
	return nil
}
