package guard

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/demo"
)

// namedContextsHere reports whether the Engine's own frontend knows named contexts and here-documents.
func (r *rig) namedContextsHere() bool { return r.engine.version.atLeast(namedContexts) }

// TestGRPCForms builds with buildx in the ways that pipelines do.
func TestGRPCForms(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dir := folder(t,
		"Dockerfile", "FROM "+alpine+" AS base\nARG WHO\nRUN echo hello $WHO >/x\nFROM base AS two\nRUN --mount=type=secret,id=s cat /run/secrets/s >/length\n"+
			"RUN --mount=type=cache,target=/c echo $(cat /c/d 2>/dev/null)again >/c/d; cp /c/d /d\nRUN --mount=type=bind,source=f,target=/b cp /b /f\nCOPY f* /copied/\n",
		"f", "content", "file-only", "1", ".dockerignore", "file-only\n", "Bad", "FROM "+alpine+"\n\n# comment\nRUN echo a \\\n  b && false\n",
		"other/o", "other", "other/Dockerfile", "FROM ground\nRUN cat /x >/y\n",
		"docker-bake.hcl", `
group "default" { targets = ["a", "b"] }
target "a" {
  target = "base"
  tags = ["bake-a:1"]
}
target "b" {
  context = "other"
  contexts = { ground = "docker-image://`+alpine+`" }
  args = { A = "b" }
  dockerfile-inline = "FROM ground\nARG A\nRUN echo $A >/b\nCOPY o /o\n"
  tags = ["bake-b:1"]
}
`)
	cat := func(image string, files ...string) string {
		t.Helper()
		return r.docker(append([]string{"run", "--rm", image, "cat"}, files...)...)
	}
	out := r.buildx(dir, "build", "--build-arg", "WHO=me", "--secret", "id=s,src=f", "-t", "one:1", "-t", "two:2", "--label", "a=b", "--add-host", "h:1.2.3.4", ".")
	wants(t, out, "naming to one:1", "naming to two:2", "FROM "+alpine)
	lacks(t, out, "slipway.local", "guard.invalid")
	wants(t, cat("two:2", "/x", "/length", "/f", "/copied/f"), "hello me", "content")
	if out, err := r.try("run", "--rm", "one:1", "ls", "/copied/file-only"); err == nil {
		t.Error("the ignored file was copied:", out)
	}
	wants(t, r.buildx(dir, "build", "--build-arg", "WHO=me", "--secret", "id=s,src=f", "--add-host", "h:1.2.3.4", "."), "CACHED")
	wants(t, r.buildx(dir, "build", "--target", "base", "--output", "out", "."), "exporting to client")
	if got, err := os.ReadFile(filepath.Join(dir, "out", "x")); string(got) != "hello\n" && string(got) != "hello \n" {
		t.Errorf("the output has %q, %v", got, err)
	}
	r.buildx(dir, "build", "--target", "base", "--output", "type=tar,dest=out.tar", ".")
	if data, err := os.ReadFile(filepath.Join(dir, "out.tar")); err != nil || !strings.Contains(string(data), "hello") {
		t.Errorf("the archive has %d bytes, %v", len(data), err)
	}
	r.buildx(dir, "build", "--target", "base", "--load", "-t", "loaded", "--cache-to", "type=inline", "--no-cache", "--iidfile", "id", ".")
	id, err := os.ReadFile(filepath.Join(dir, "id"))
	if err != nil || strings.TrimSpace(r.docker("image", "inspect", "--format", "{{.Id}}", "loaded")) != string(id) {
		t.Errorf("the ID is %q, %v", id, err)
	}
	// An own image is a base, by name, by context and by ID.
	for _, base := range []string{"loaded", string(id)} {
		r.buildx(folder(t, "Dockerfile", "FROM "+base+"\nRUN cat /x\n"), "build", "--pull", ".")
	}
	r.buildx(dir, "build", "--build-context", "ground=docker-image://loaded", "-t", "onto", "other")
	wants(t, cat("onto", "/y"), "hello")
	r.buildx(dir, "bake")
	wants(t, cat("bake-b:1", "/b", "/o"), "b\nother")
	out, err = r.modern(dir, "FROM "+alpine+"\nRUN echo from stdin\n", "build", "-f", "-", ".")
	if err != nil {
		t.Error(err)
	}
	wants(t, out, "from stdin")
	out, err = r.buildxIn(dir, "", "build", "-f", "Bad", ".")
	if err == nil {
		t.Error("a step that fails does not fail the build")
	}
	wants(t, out, "exit code: 1")
	if r.namedContextsHere() {
		wants(t, out, "Bad:4", ">>> RUN echo a", "# comment")
	}
	out, err = r.buildxIn(dir, "", "build", "-f", "nothere", ".")
	if err == nil {
		t.Error("a Dockerfile that is not there does not fail the build")
	}
	wants(t, out, "ERROR: failed to build: failed to solve: ", "failed to read dockerfile: open nothere: no such file or directory")
	wants(t, r.buildx(dir, "ls"), "running")
	wants(t, r.buildx(dir, "inspect", "--bootstrap"), "Driver:", "docker")
}

// TestGRPCContexts has folders and results of other builds as named contexts, where the Engine's frontend knows them.
func TestGRPCContexts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dir := folder(t,
		"Dockerfile", "FROM "+alpine+"\nCOPY --from=extra /o /o\nRUN --mount=type=bind,from=extra,target=/e cat /e/o >/p\n",
		"extra/o", "from the folder", "Ground", "FROM "+alpine+"\nRUN echo ground >/ground\n", "Onto", "FROM ground\nRUN cat /ground >/onto\nCOPY --from=ground /ground /copied\n",
		"Heredoc", "FROM "+alpine+"\nRUN <<EOF\necho one >/lines\necho two >>/lines\nEOF\nCOPY <<\"EOF\" /text\n$not expanded\nEOF\n",
		"docker-bake.hcl", "target \"ground\" {\n dockerfile = \"Ground\"\n}\ntarget \"default\" {\n dockerfile = \"Onto\"\n contexts = { ground = \"target:ground\" }\n tags = [\"linked:1\"]\n}\n")
	out, err := r.buildxIn(dir, "", "build", "--build-context", "extra=extra", "-t", "extra:1", ".")
	if !r.namedContextsHere() {
		if err == nil {
			t.Error("a folder as a named context was built by an Engine that does not know them")
		}
		wants(t, out, "the named context extra needs Docker Engine 23.0")
		return
	}
	if err != nil {
		t.Fatal(err, out)
	}
	lacks(t, out, contextName)
	wants(t, r.docker("run", "--rm", "extra:1", "cat", "/o", "/p"), "from the folderfrom the folder")
	lacks(t, r.buildx(dir, "bake"), "slipway.local")
	wants(t, r.docker("run", "--rm", "linked:1", "cat", "/onto", "/copied"), "ground\nground")
	r.buildx(dir, "build", "-f", "Heredoc", "-t", "heredoc:1", ".")
	wants(t, r.docker("run", "--rm", "heredoc:1", "cat", "/lines", "/text"), "one\ntwo\n$not expanded")
}

// TestGRPCRegistry pushes from a build, keeps its cache in the registry, and builds on a private base.
func TestGRPCRegistry(t *testing.T) {
	t.Parallel()
	registry, err := demo.StartRegistry()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Close() })
	path := registry.Host + "/group/demo"
	r := newRig(t, withRegistry(registry.Host, path))
	config := plugins(t)
	dir := folder(t, "Dockerfile", "FROM "+alpine+"\nRUN echo "+r.policy.Token+" >/x\n", "Onto", "FROM "+path+"/app:1\nRUN cat /x\n")
	do := func(args ...string) string {
		t.Helper()
		out, err := r.modernAt(config, "unix://"+r.Socket(), dir, "", args...)
		if err != nil {
			t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	do("login", "-u", registry.User, "-p", registry.Password, registry.Host)
	do("buildx", "build", "--push", "-t", path+"/app:1", ".")
	wants(t, do("manifest", "inspect", "--insecure", path+"/app:1"), "config")
	wants(t, do("buildx", "imagetools", "inspect", path+"/app:1"), "Digest")
	do("rmi", path+"/app:1")
	wants(t, do("buildx", "build", "-f", "Onto", "-t", path+"/onto:1", "."), "FROM "+path+"/app:1")
	if r.engine.containerd {
		do("buildx", "build", "--cache-to", "type=registry,ref="+path+"/cache", "--cache-from", "type=registry,ref="+path+"/cache", ".")
		wants(t, r.reports.String(), "--cache-from is not used")
		do("buildx", "build", "--output", "type=image,name="+path+"/pushed:1,push=true", ".")
		wants(t, do("buildx", "imagetools", "inspect", path+"/pushed:1"), "Digest")
	}
	// Another project gets neither the base nor what was made of it.
	other := newRig(t, newScope, withRegistry(registry.Host, registry.Host+"/group/other"), func(o *Options) { o.Images = r.Guard.images })
	if out, err := other.buildxIn(dir, "", "build", "-f", "Onto", "."); err == nil {
		t.Error("a private base was built on without credentials:", out)
	}
}

// TestGRPCBuilders starts builders of its own, which need a privileged container: the message says what is warm already.
func TestGRPCBuilders(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const image = "moby/buildkit:buildx-stable-1"
	r.host("tag", alpine, image)
	t.Cleanup(func() { _, _ = run(engineHost(), "", "rmi", image) })
	config := plugins(t)
	if out, err := r.modernAt(config, "unix://"+r.Socket(), "", "", "buildx", "create", "--name", "own", "--driver", "docker-container", "--use"); err != nil {
		t.Fatal(err, out)
	}
	out, err := r.modernAt(config, "unix://"+r.Socket(), "", "", "buildx", "inspect", "--bootstrap", "own")
	wants(t, out+r.reports.String(), "[privileged]", "the default builder (docker buildx use default) has this project's warm cache already")
	if n := strings.TrimSpace(r.docker("ps", "--all", "--quiet")); n != "" {
		t.Errorf("containers are left: %s, %v", n, err)
	}
}

// TestComposeV2 builds and runs a project with docker compose of today.
func TestComposeV2(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dir := folder(t, "Dockerfile", "FROM "+alpine+"\nRUN echo built >/x\n",
		"compose.yml", "services:\n  web:\n    build: .\n    command: cat /x\n    depends_on: [db]\n  db:\n    image: "+alpine+"\n    command: sleep 600\n    init: true\n    stop_grace_period: 0s\n")
	do := func(args ...string) string {
		t.Helper()
		out, err := r.modern(dir, "", append([]string{"compose", "--ansi", "never", "-p", "app"}, args...)...)
		if err != nil {
			t.Fatalf("compose %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	wants(t, do("up", "--build", "--abort-on-container-exit"), "built")
	do("build")
	do("up", "-d", "db")
	wants(t, do("ps"), "db")
	do("stop", "-t", "0")
	do("rm", "-f")
	do("down", "-v")
	if left := strings.TrimSpace(r.docker("ps", "--all", "--quiet")); left != "" {
		t.Errorf("compose left containers: %s", left)
	}
}
