package guard

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// builder is a client with which a folder is built.
type builder struct {
	name  string
	build func(r *rig, dir string, args ...string) (output string)
	modes []string // of what steps can have: secrets and cache mounts are not for all
}

// builders are the clients of pipelines, each of which has its own form of request.
func builders(t *testing.T) []builder {
	needOldClient(t)
	return []builder{
		{"docker 20.10 with BuildKit", func(r *rig, dir string, args ...string) string {
			out, err := r.oldDocker(dir, "", append([]string{"build", "--progress", "plain"}, args...)...)
			if err != nil {
				r.t.Fatal(err, out)
			}
			return out
		}, []string{"host", "proxy", "secret", "mount"}},
		{"docker 28 without buildx", func(r *rig, dir string, args ...string) string {
			out, code := r.buildWith("docker", "", append(args, dir)...)
			if code != 0 {
				r.t.Fatal(code, out)
			}
			return out
		}, []string{"host", "proxy", "mount"}},
		{"buildx", func(r *rig, dir string, args ...string) string {
			return r.buildx(dir, append([]string{"build"}, args...)...)
		}, []string{"host", "proxy", "secret", "mount"}},
	}
}

// hidden are inputs of a step that are not part of its key in BuildKit's cache: the attacker's, and the victim's.
var hidden = map[string]struct {
	step             string
	attacker, victim []string
	secretA, secretV string
}{
	"host":   {step: "RUN %s", attacker: []string{"--add-host", "mirror:6.6.6.6"}, victim: []string{"--add-host", "mirror:7.7.7.7"}},
	"proxy":  {step: "RUN %s", attacker: []string{"--build-arg", "http_proxy=http://evil.invalid"}, victim: []string{"--build-arg", "http_proxy=http://mine.invalid"}},
	"secret": {step: "RUN --mount=type=secret,id=s %s", attacker: []string{"--secret", "id=s,src=s"}, victim: []string{"--secret", "id=s,src=s"}, secretA: "evil", secretV: "mine"},
	"mount":  {step: "RUN --mount=type=cache,id=x,target=/c %s"},
}

// TestPoisonedCache: with each client and each input that BuildKit does not look at, another project never gets what the
// attacker made, nor does a protected ref get what a merge request made; the same project gets its own from the cache.
func TestPoisonedCache(t *testing.T) {
	t.Parallel()
	for _, b := range builders(t) {
		for _, mode := range b.modes {
			h := hidden[mode]
			// A merge request, a protected ref of the same project, and another project: three scopes.
			attacker, protected := rigs(t)
			victim := newRig(t, func(o *Options) { o.Images = attacker.Guard.images })
			nonce := attacker.policy.Token + mode + strings.ReplaceAll(b.name, " ", "")
			dir := func(secret string) string {
				step := strings.Replace(h.step, "%s", "cat /proc/sys/kernel/random/uuid >/id # "+nonce, 1)
				return folder(t, "Dockerfile", "FROM "+alpine+"\n"+step+"\n", "s", secret)
			}
			made := func(r *rig, secret string, args []string) (id, output string) {
				output = b.build(r, dir(secret), where(b, append([]string{"-t", "made:1"}, args...))...)
				return r.docker("run", "--rm", "--network", "none", "made:1", "cat", "/id"), output
			}
			evil, _ := made(attacker, h.secretA, h.attacker)
			for _, r := range []*rig{protected, victim} {
				honest, _ := made(r, h.secretV, h.victim)
				if honest == evil {
					t.Errorf("%s, %s: the attacker's layer was had by another scope", b.name, mode)
				}
				again, output := made(r, h.secretV, h.victim)
				if again != honest || !strings.Contains(output, "CACHED") && !strings.Contains(output, "Using cache") {
					t.Errorf("%s, %s: the second run is not cached:\n%s", b.name, mode, output)
				}
			}
		}
	}
}

// where adds the folder for clients that run in it.
func where(b builder, args []string) []string {
	if b.name == "docker 28 without buildx" {
		return args
	}
	return append(args, ".")
}

// TestCacheFromCannotPoison imports a cache of the attacker's own registry, which says that it has the victim's layers: it
// is not asked.
func TestCacheFromCannotPoison(t *testing.T) {
	t.Parallel()
	attacker, victim := rigs(t)
	dir := folder(t, "Dockerfile", "FROM "+alpine+"\nCOPY f /f\n", "f", "the victim's "+victim.policy.Token)
	attacker.buildx(dir, "build", "--cache-from", "type=registry,ref=registry.invalid/evil", "--cache-to", "type=inline", "-t", "x", ".")
	wants(t, attacker.reports.String(), "--cache-from is not used")
	lacks(t, attacker.calls.String(), "registry.invalid")
	victim.buildx(dir, "build", "-t", "x", ".")
	got := victim.docker("run", "--rm", "--network", "none", "x", "cat", "/f")
	want, err := os.ReadFile(filepath.Join(dir, "f"))
	if err != nil || got != string(want) {
		t.Errorf("the file is %q, %v", got, err)
	}
}
