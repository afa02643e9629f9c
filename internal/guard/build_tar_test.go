package guard

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestBuildContextIsKept: the Engine gets the files as they were, so that its cache and the image are what they would be
// without a guard.
func TestBuildContextIsKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	when := time.Date(2020, 1, 2, 3, 4, 5, 678900000, time.UTC)
	big := make([]byte, 6<<20) // more than is held in memory
	rand.New(rand.NewSource(1)).Read(big)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range []struct {
		tar.Header
		data string
	}{
		{tar.Header{Name: "pax_global_header", Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "c"}}, ""},
		{tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o1750, Uid: 7, Gid: 8, ModTime: when}, ""},
		{tar.Header{Name: "d/f", Mode: 0o4755, Uid: 123456, Gid: 70000, ModTime: when, Format: tar.FormatPAX, PAXRecords: map[string]string{"SCHILY.xattr.user.x": "y\x00z"}}, "f"},
		{tar.Header{Name: strings.Repeat("long", 40), Mode: 0o600, ModTime: when}, "long"},
		{tar.Header{Name: "größe", Mode: 0o600, ModTime: when}, "size"},
		{tar.Header{Name: "big", Mode: 0o644, ModTime: when}, string(big)},
		{tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "d/f", Mode: 0o4755, Uid: 123456, Gid: 70000, ModTime: when}, ""},
		{tar.Header{Name: "soft", Typeflag: tar.TypeSymlink, Linkname: "../../etc/x", ModTime: when}, ""},
		{tar.Header{Name: "Dockerfile", Mode: 0o640, Uid: 5, ModTime: when}, "FROM scratch\nCOPY . /\n"},
		{tar.Header{Name: "old", Mode: 0o644, ModTime: when.Truncate(time.Second), Format: tar.FormatGNU, Uid: 1 << 22}, "gnu"},
	} {
		e.Size = int64(len(e.data))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b.Write(make([]byte, 8<<10)) // as tar pads it

	// Nothing is cached, so the layers have all that a file has, times among it.
	status, text := r.do("POST", "/build?nocache=1", b.Bytes())
	i := strings.Index(text, `"ID":"sha256:`)
	if status != 200 || i < 0 {
		t.Fatalf("%d %s", status, text)
	}
	got := r.host("image", "inspect", "--format", "{{.RootFS.Layers}}", text[i+6:i+6+71])
	raw, err := r.engine.do(t.Context(), "POST", "/build", url.Values{"version": {"2"}, "nocache": {"1"}}, nil, io.Reader(bytes.NewReader(b.Bytes())))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Body.Close()
	answer, err := io.ReadAll(raw.Body)
	if err != nil {
		t.Fatal(err)
	}
	i = bytes.Index(answer, []byte(`"ID":"sha256:`))
	if i < 0 {
		t.Fatalf("%s", answer)
	}
	id := string(answer[i+6 : i+6+71])
	defer func() { _, _ = run(engineHost(), "", "rmi", id) }()
	if want := r.host("image", "inspect", "--format", "{{.RootFS.Layers}}", id); got != want {
		t.Errorf("the layers are %s, without a guard %s", got, want)
	}
}

// TestBuildTakesTheCheckedFile: the Engine takes an archive whose first bytes it does not know for a Dockerfile, and
// follows links that are in it when it unpacks what comes below them.
func TestBuildTakesTheCheckedFile(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	text := "\nFROM " + alpine + "\nLABEL evil=" + r.policy.Token + "\n#"
	good := tar.Header{Name: "Dockerfile", Typeflag: tar.TypeReg, Linkname: "FROM " + alpine + "\nLABEL good=" + r.policy.Token + "\n"}
	evil := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Linkname: text} }
	link := func(name, to string, kind byte) tar.Header {
		return tar.Header{Name: name, Linkname: to, Typeflag: kind}
	}
	for name, headers := range map[string][]tar.Header{
		"in a record":                  {{Name: "# x", Format: tar.FormatPAX, PAXRecords: map[string]string{"VENDOR.a": text + strings.Repeat("x", 1000)}}, good},
		"in a name":                    {{Name: "#" + text + strings.Repeat("x/", 100)}, good},
		"in UTF-8":                     {{Name: "# y" + strings.Repeat("ü/", 100)}, good},
		"by a linked folder":           {good, link("a", ".", tar.TypeSymlink), evil("a/Dockerfile")},
		"by a link to the link":        {good, link("a", ".", tar.TypeSymlink), link("b", "a", tar.TypeLink), evil("b/Dockerfile")},
		"a link to a link":             {link("Dockerfile", "a/b", tar.TypeSymlink), link("a/b", "../../c", tar.TypeSymlink), {Name: "c", Typeflag: tar.TypeReg, Linkname: good.Linkname}, link("a/b", "../d", tar.TypeSymlink), evil("d")},
		"a hard link in the folder":    {good, evil("x"), link("a", ".", tar.TypeSymlink), link("a/Dockerfile", "x", tar.TypeLink)},
		"a symlink in the folder":      {good, evil("x"), link("a", ".", tar.TypeSymlink), link("a/Dockerfile", "x", tar.TypeSymlink)},
		"a folder in its place":        {good, link("a", ".", tar.TypeSymlink), {Name: "a/Dockerfile/", Typeflag: tar.TypeDir, Mode: 0o755}, evil("a/Dockerfile/x")},
		"the other spelling of it":     {good, evil("dockerfile"), link("a", ".", tar.TypeSymlink), link("a/Dockerfile", "dockerfile", tar.TypeSymlink)},
		"a link that it is written by": {good, link("x", "Dockerfile", tar.TypeSymlink), link("y", "x", tar.TypeLink), evil("y")},
	} {
		status, answer := r.do("POST", "/build", entries(t, headers...))
		if status != 200 || !strings.Contains(answer, "Successfully built") {
			t.Errorf("%s: %d %s", name, status, answer)
		}
		if ids := r.host("images", "--quiet", "--all", "--filter", "label=evil="+r.policy.Token); ids != "" {
			t.Fatalf("%s: %s", name, ids)
		}
	}
	if ids := r.host("images", "--quiet", "--all", "--filter", "label=good="+r.policy.Token); ids == "" {
		t.Error("nothing was built")
	}
}

// TestComposeBuild: docker-compose of version 1 builds and runs.
func TestComposeBuild(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("docker-compose"); err != nil {
		t.Skip("no docker-compose")
	}
	r := newRig(t)
	dir := folder(t, "docker-compose.yml", `version: "2.4"
services:
  app:
    image: composed
    build:
      context: .
      args: {WHO: me}
`, "Dockerfile", "FROM "+alpine+"\nARG WHO\nRUN echo made for $WHO > /who\nCMD cat /who\n", ".dockerignore", "*.yml\n")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	compose := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "docker-compose", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+r.Socket(), "HOME="+dir, "DOCKER_BUILDKIT=0", "COMPOSE_DOCKER_CLI_BUILD=0")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := compose("build")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wants(t, out, "Step 3/4 : RUN echo made for $WHO > /who", "Successfully built", "Successfully tagged composed:latest")
	wants(t, r.docker("image", "inspect", "--format", "{{.Config.Cmd}}", "composed"), "cat /who")
	// It tells why a build failed.
	if err := os.WriteFile(dir+"/Dockerfile", []byte("FROM "+alpine+"\nRUN exit 5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err = compose("build")
	if err == nil {
		t.Error(out)
	}
	wants(t, out, "The command '/bin/sh -c exit 5' returned a non-zero code: 5")
}

// TestPythonBuild: docker's library for Python finds the image that it built.
func TestPythonBuild(t *testing.T) {
	t.Parallel()
	if err := exec.Command("python3", "-c", "import docker").Run(); err != nil {
		t.Skip("no library for Python")
	}
	r := newRig(t)
	dir := folder(t, "Dockerfile", "FROM "+alpine+"\nRUN true\nCMD [\"x\"]\n")
	cmd := exec.CommandContext(t.Context(), "python3", "-c", fmt.Sprintf(`
import docker, docker.errors
c = docker.from_env()
image, log = c.images.build(path=%q, tag="py")
print(image.id, image.tags, "".join(l.get("stream", "") for l in log))
open(%q, "w").write("FROM %s\nRUN exit 4\n")
try:
    c.images.build(path=%q)
except docker.errors.BuildError as e:
    print("failed:", e)
`, dir, dir+"/Dockerfile", alpine, dir))
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+r.Socket(), "HOME="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wants(t, string(out), "['py:latest']", "Step 3/3 : CMD", "Successfully tagged py:latest", "failed: The command '/bin/sh -c exit 4' returned a non-zero code: 4")
	wants(t, r.docker("image", "inspect", "--format", "{{.Id}}", "py"), strings.Fields(string(out))[0])
}
