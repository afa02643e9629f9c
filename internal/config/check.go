package config

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// checker looks at what the values mean whose types are right, and fills the defaults in.
type checker struct {
	*problems
	getenv func(string) string
}

// fail notes a mistake, unless it is only what follows from one that was told.
func (c *checker) fail(path, hint, format string, args ...any) {
	if !c.lost(path) {
		c.problems.fail(path, hint, format, args...)
	}
}

// warn does the same for a warning.
func (c *checker) warn(path, hint, format string, args ...any) *Warning {
	if c.lost(path) {
		return &Warning{}
	}
	return c.problems.warn(path, hint, format, args...)
}

func (c *checker) config(cfg *Config, tree map[string]any) {
	// GitLab: concurrent = 0 is a fatal error, not a default.
	if get(tree, "concurrent") == nil {
		cfg.Concurrent = 1
	}
	if cfg.Concurrent < 1 {
		c.fail("concurrent", "write concurrent = 1 or more", "%d would let no job run", cfg.Concurrent)
	}
	levels := []string{"", "trace", "debug", "info", "warn", "warning", "error", "fatal", "panic"}
	c.oneOf("log_level", strings.ToLower(cfg.LogLevel), levels) // GitLab: in any case
	c.oneOf("log_format", cfg.LogFormat, []string{"", "runner", "text", "json"})
	address, err := ListenAddress(cfg.ListenAddress)
	if err != nil {
		c.fail("listen_address", `write listen_address = "127.0.0.1:9252"`, "%v", err)
	}
	cfg.ListenAddress = address
	c.sessionServer("session_server", &cfg.SessionServer)
	if d := cfg.Slipway.StateDir; d != "" && !filepath.IsAbs(d) {
		c.fail("slipway.state_dir", `write a path that begins with /`, "%q is not an absolute path", d)
	}
	c.machineLimits("slipway.limits", cfg.Slipway.Limits)
	cfg.defaults()
	sections, _ := tables(get(tree, "runners"))
	for i, r := range cfg.Runners {
		executor := ""
		if i < len(sections) { // else the file has it twice, spelled in two ways
			executor = assumed(sections[i])
		}
		c.runner(element("runners", i), r, executor)
	}
}

func (c *checker) machineLimits(at string, l MachineLimits) {
	switch n := l.BuildCache; {
	case n < 0:
		c.fail(child(at, "build_cache"), "leave it out for no bound", "a size cannot be less than nothing")
	case lacksUnit(int64(n)):
		c.fail(child(at, "build_cache"), `write build_cache = "50GB", or leave it out for no bound`, "%d bytes hold no build cache", n)
	}
}

// sessionServer looks at addresses that GitLab is told, and gets to from elsewhere.
func (c *checker) sessionServer(at string, s *SessionServer) {
	for key, address := range map[string]string{"listen_address": s.ListenAddress, "advertise_address": s.AdvertiseAddress} {
		if address == "" {
			continue
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil || port == "" || strings.Contains(host, "/") {
			c.fail(child(at, key), `write a host and a port without a scheme, such as "runner.example.com:8093"`, "%q is no address", address)
		}
	}
	// GitLab refuses to hand a job out with an address that it cannot use.
	host, port, err := net.SplitHostPort(cmp.Or(s.AdvertiseAddress, s.ListenAddress))
	if ip, notIP := netip.ParseAddr(host); err == nil && !c.lost(child(at, "advertise_address")) && (host == "" || notIP == nil && ip.IsUnspecified()) {
		c.warn(child(at, "listen_address"), `write advertise_address = "runner.example.com:`+port+`" below it`, "there are no web terminals, because GitLab cannot be told a host at which it gets to this machine")
		s.ListenAddress = ""
	}
	if s.SessionTimeout < 0 {
		c.fail(child(at, "session_timeout"), "write session_timeout = 1800, in seconds", "%d is less than 0", s.SessionTimeout)
	}
}

func (c *checker) oneOf(path, value string, known []string) {
	if slices.Contains(known, value) {
		return
	}
	if known[0] == "" {
		known = known[1:]
	}
	hint := "write " + strings.Join(known[:len(known)-1], ", ") + " or " + known[len(known)-1]
	c.fail(path, hint, "%q is not known", value)
}

// runner checks a [[runners]], whose settings are those of the executor.
func (c *checker) runner(at string, r *Runner, executor string) {
	rawURL, rawToken := r.URL, string(r.Token)
	r.URL, r.Token = os.Expand(rawURL, c.getenv), Secret(os.Expand(rawToken, c.getenv))
	r.defaults()
	key, reason, unknown := unsupported(r)
	r.Unsupported = reason
	switch {
	case unknown:
		c.warn(child(at, key), `write executor = "docker" or executor = "shell"`, "%s: this [[runners]] is skipped", reason).Unknown = true
		c.skip(at)
	case reason != "":
		c.warn(child(at, key), "the others run; GitLab's own runner can serve it with a config.toml of its own", "%s: this [[runners]] is skipped", reason)
		return
	}
	switch executor {
	case ShellExecutor:
		r.shellDefaults()
	case dockerExecutor:
		r.dockerDefaults()
	}
	c.url(child(at, "url"), rawURL, r.URL)
	if r.Token == "" {
		c.missing(child(at, "token"), rawToken, "take it from the runner's page in GitLab, or let slipway register write it")
	}
	if d := r.BuildsDir; executor == dockerExecutor && !path.IsAbs(d) || path.Clean(d) == "/" {
		c.fail(child(at, "builds_dir"), `write a path inside the container, such as "/builds"`, "%q is not an absolute path below /", d)
	}
	if v, at := r.Experimental.BootVerify, at+".experimental.boot_verify"; (v.Enabled || c.lost(child(at, "enabled"))) &&
		v.AcquireMaxBackoff > 0 && v.AcquireMaxBackoff < v.AcquireMinBackoff && !c.lost(child(at, "acquire_min_backoff")) {
		c.fail(child(at, "acquire_max_backoff"), "write the larger one here", "%s is less than acquire_min_backoff", v.AcquireMaxBackoff)
	}
	r.Environment = c.environment(at, r.Environment)
	c.cache(child(at, "cache"), &r.Cache)
	if executor == "" {
		return
	}
	c.slipway(child(at, "slipway"), &r.Slipway)
	if executor == ShellExecutor {
		return
	}
	c.docker(child(at, "docker"), r.Docker)
	if r.Docker != nil {
		c.guarded(at, r)
	}
}

// foreignExecutors are those of GitLab's runner that Slipway lacks.
func foreignExecutors() []string {
	return []string{
		"ssh", "parallels", "virtualbox", "docker+machine", "docker-ssh", "docker-ssh+machine", "docker-windows",
		"docker-autoscaler", "instance", "kubernetes", "custom",
	}
}

// unsupported says why no job of this runner can run, which key is to blame, and whether that is of no runner; "" if they can.
func unsupported(r *Runner) (key, reason string, unknown bool) {
	others := foreignExecutors()
	key = "executor"
	switch e := r.Executor; {
	case implemented(e) && !slices.Contains([]string{"", "bash", "sh"}, r.Shell):
		return "shell", fmt.Sprintf("shell %q is not supported", r.Shell), false
	case implemented(e):
		return "", "", false
	case e == "":
		return key, "no executor is named", true
	case slices.Contains(others, e):
		return key, fmt.Sprintf("executor %q is not supported", e), false
	default:
		if near, ok := nearest(e, append(others, dockerExecutor, ShellExecutor)); ok {
			return key, fmt.Sprintf("executor %q is not known, did you mean %q?", e, near), true
		}
		return key, fmt.Sprintf("executor %q is not known", e), true
	}
}

func (c *checker) url(at, raw, value string) {
	const cure = `write the address of the GitLab server, such as url = "https://gitlab.example.com"`
	if value == "" {
		c.missing(at, raw, cure)
		return
	}
	u, err := url.Parse(value)
	if err != nil {
		// The parser's own message repeats the address, with the password that may be in it.
		var inner *url.Error
		if errors.As(err, &inner) {
			err = inner.Err
		}
		c.fail(at, cure, "is no address: %v", err)
		return
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		c.fail(at, cure, "%q does not begin with https:// or http://", u.Redacted())
		return
	}
	if u.Hostname() == "" {
		c.fail(at, cure, "%q names no host", u.Redacted())
		return
	}
	u.User, u.RawQuery, u.Fragment, u.RawPath = nil, "", "", "" // what follows is printed
	page, isPage := pageOf(u.Path)
	if page == "" {
		return
	}
	server := *u
	server.Path = strings.TrimSuffix(strings.TrimRight(u.Path, "/"), page)
	switch {
	case strings.HasPrefix(page, "/-/"): // before it stands a project or a group
		server.Path = ""
		c.fail(at, fmt.Sprintf("write url = %q, and behind it the path at which the whole GitLab lives, if it has one", server.String()),
			"%q is a page of the GitLab server, not its address", u.String())
	case isPage:
		c.fail(at, fmt.Sprintf("write url = %q", server.String()), "%q is a page of the GitLab server, not its address: %s is too much", u.String(), page)
	default:
		c.warn(at, fmt.Sprintf("write url = %q", server.String()), "%q is not the address of the GitLab server: %s is left out", u.String(), page)
	}
}

// page is where the address of a page or of the API goes on behind that of the GitLab.
var page = regexp.MustCompile(`/(api/v\d+(/.*)?|-/.*|admin/runners.*|users/sign_in)$`)

// pageOf finds what at the end of a path leads to a page or the API of a GitLab, not to the GitLab. It is left out for /ci only.
//
// GitLab: a server may live below a path. "/ci" is a relic, which its runner leaves out, too.
func pageOf(path string) (found string, isPage bool) {
	path = strings.TrimRight(path, "/")
	if found := page.FindString(path); found != "" {
		return found, true
	}
	if strings.HasSuffix(path, "/ci") {
		return "/ci", false
	}
	return "", false
}

// missing tells a key that is not there from one whose variable is not set.
func (c *checker) missing(at, raw, cure string) {
	var unset []string
	os.Expand(raw, func(name string) string {
		if v := c.getenv(name); v != "" {
			return v
		}
		unset = append(unset, "$"+name)
		return ""
	})
	if len(unset) > 0 {
		c.fail(at, "set it where slipway is started", "%s is not set in the environment", strings.Join(unset, ", "))
		return
	}
	c.fail(at, cure, "is missing")
}

// environment drops what is no KEY=value.
//
// GitLab: such an entry is passed over in silence.
func (c *checker) environment(at string, entries []string) (keep []string) {
	for i, e := range entries {
		if key, _, ok := strings.Cut(e, "="); ok && key != "" {
			keep = append(keep, e)
			continue
		}
		c.warn(element(child(at, "environment"), i), `write "KEY=value"`, "entry %d is not KEY=value, ignored", i+1)
	}
	return keep
}

// globs refuses patterns that no image matches whatever: one that is to keep something out would not. One that lets nothing in is
// told of.
//
// GitLab: what is no pattern matches nothing, in silence.
func (c *checker) globs(at string, list []string) {
	const cure = `write it like "ruby:*", "registry.example.com/group/**" or "!docker:*"`
	for i, glob := range list {
		out, keepsOut := strings.CutPrefix(glob, "!")
		switch {
		case !doublestar.ValidatePattern(out):
			c.fail(element(at, i), cure, "%q is no pattern", glob)
		case out != "" && !strings.ContainsAny(out, " \t\n"):
		case keepsOut:
			c.fail(element(at, i), cure, "%q keeps nothing out: no image has such a name", glob)
		default:
			c.warn(element(at, i), cure, "%q lets nothing in: no image has such a name", glob)
		}
	}
}

// gpuForm is how a value of docker run --gpus begins.
var gpuForm = regexp.MustCompile(`^("?[a-z]+=|all$|all,|[0-9]+$|[0-9]+,)`)

func (c *checker) docker(at string, d *Docker) {
	if d == nil || d.Image == "" {
		c.fail(child(at, "image"), `write image = "alpine:latest", or another, below [runners.docker]: jobs that name no image run in it`, "is missing")
	}
	if d == nil {
		return
	}
	c.globs(child(at, "allowed_images"), d.AllowedImages)
	c.globs(child(at, "allowed_privileged_images"), d.AllowedPrivilegedImages)
	c.globs(child(at, "allowed_services"), d.AllowedServices)
	c.globs(child(at, "allowed_privileged_services"), d.AllowedPrivilegedServices)
	for glob := range d.ServicesDevices {
		// GitLab: jobs with services fail.
		if !doublestar.ValidatePattern(glob) {
			c.fail(child(child(at, "services_devices"), glob), `write it like "emulator:*" = ["/dev/kvm"]`, "%q is no pattern for images", glob)
		}
	}
	policies := []string{PullAlways, PullIfNotPresent, PullNever}
	for _, p := range d.PullPolicy {
		c.oneOf(child(at, "pull_policy"), p, policies)
	}
	for _, p := range d.AllowedPullPolicies {
		if !slices.Contains(d.PullPolicy, p) {
			c.oneOf(child(at, "allowed_pull_policies"), p, policies)
		}
	}
	if !c.lost(child(at, "pull_policy")) && !slices.ContainsFunc(d.PullPolicy, func(p string) bool { return slices.Contains(d.AllowedPullPolicies, p) }) {
		c.warn(child(at, "allowed_pull_policies"), "add one of pull_policy",
			"allows none of pull_policy: jobs that name no policy of their own fail")
	}
	for key, value := range map[string]string{"gpus": d.GPUs, "service_gpus": d.ServiceGPUs} {
		if value != "" && !gpuForm.MatchString(value) {
			c.fail(child(at, key), key+` = "all", a number, or "device=0,1" in quotes of its own: '"device=0,1"'`, "%q is nothing that docker run --gpus takes", value)
		}
	}
	for i := range d.Services {
		s, at := &d.Services[i], element(child(at, "services"), i)
		if s.Name == "" {
			c.fail(child(at, "name"), `write name = "postgres:16", the service's image`, "is missing")
		}
		s.Environment = c.environment(at, s.Environment)
	}
	if n := d.ServicesLimit; n != nil && *n < -1 {
		c.fail(child(at, "services_limit"), "write -1 for any number", "%d is no number of services", *n)
	}
	for i, ip := range d.DNS {
		if _, err := netip.ParseAddr(ip); err != nil {
			c.fail(element(child(at, "dns"), i), `write dns = ["192.0.2.53"]`, "%q is not an IP address", ip)
		}
	}
	for name, v := range d.Ulimit {
		if _, _, err := ParseUlimit(v); err != nil {
			c.fail(child(child(at, "ulimit"), name), name+` = "1024:2048", soft and hard limit, or "1024" for both`, "%v", err)
		}
	}
	for key, n := range map[string]int64{
		"memory": int64(d.Memory), "memory_reservation": int64(d.MemoryReservation), "shm_size": d.ShmSize,
		"service_memory": int64(d.ServiceMemory), "service_memory_reservation": int64(d.ServiceMemoryReservation),
	} {
		if n < 0 {
			c.fail(child(at, key), "leave it out for the Engine's default", "a size cannot be less than nothing")
		}
	}
}
