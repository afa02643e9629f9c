package demo

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// load makes the image of a recipe known to the Engine until the test ends.
func load(t *testing.T, r Recipe, tag string) string {
	t.Helper()
	name := fmt.Sprintf("slipway-test/%s:%d", tag, os.Getpid())
	r.Labels = map[string]string{"slipway-test": name} // an image of its own, whatever runs beside this test
	var archive bytes.Buffer
	if err := r.WriteArchive(&archive, name); err != nil {
		t.Fatal(err)
	}
	dockerIn(t, archive.Bytes(), "load", "--quiet")
	t.Cleanup(func() { removeImage(t, name) })
	return name
}

func TestStandInsRun(t *testing.T) {
	t.Parallel()
	needEngine(t)
	client, alpine := load(t, DockerClient(), "docker"), load(t, Alpine(), "alpine")
	ours := strings.TrimSpace(docker(t, "--version"))
	// The entrypoint runs once with the container, and once more for each case that only the environment tells apart.
	entrypoint := `docker-entrypoint.sh printf '%s|' 'a b' '' c; echo
docker-entrypoint.sh docker --version
docker-entrypoint.sh help ps | head -n 1
unset DOCKER_HOST; docker-entrypoint.sh sh -c 'echo $DOCKER_HOST'
DOCKER_HOST=tcp://x:1 docker-entrypoint.sh sh -c 'echo $DOCKER_HOST'
DOCKER_TLS_VERIFY=1 docker-entrypoint.sh sh -c 'echo $DOCKER_HOST'
touch $DOCKER_TLS_CERTDIR/client/ca.pem; docker-entrypoint.sh sh -c 'echo $DOCKER_HOST'
echo x >$DOCKER_TLS_CERTDIR/client/ca.pem; docker-entrypoint.sh sh -c 'echo $DOCKER_HOST $DOCKER_TLS_VERIFY $DOCKER_CERT_PATH'`
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"alpine", []string{alpine, "sh", "-c", "id -u; wc -l </etc/passwd; stat -c %a /tmp; stat -c %a /root"}, "0\n2\n1777\n700"},
		{"alpine's default command", []string{alpine}, ""},
		{"user", []string{"--user", "1000", alpine, "sh", "-c", "touch /tmp/x && id -u"}, "1000"},
		{"docker with a flag", []string{client, "--version"}, ours},
		{"docker's entrypoint", []string{client, "sh", "-c", entrypoint}, strings.Join([]string{
			"a b||c|", ours, firstLine(docker(t, "help", "ps")),
			"tcp://docker:2375", "tcp://x:1", "tcp://docker:2376", "tcp://docker:2375", "tcp://docker:2376 1 /certs/client",
		}, "\n")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := docker(t, append([]string{"run", "--rm", "--network", "none"}, tc.args...)...)
			if diff := cmp.Diff(tc.want, strings.TrimSpace(got)); diff != "" {
				t.Errorf("docker run %v (-want +got):\n%s", tc.args, diff)
			}
		})
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func TestStandInTalksToTheMountedSocket(t *testing.T) {
	t.Parallel()
	needEngine(t)
	socket := docker(t, "context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
	path, ok := strings.CutPrefix(strings.TrimSpace(socket), "unix://")
	if !ok {
		t.Skipf("the Engine is at %s", socket)
	}
	image := load(t, DockerClient(), "docker-socket")
	got := docker(t, "run", "--rm", "--network", "none", "-v", path+":/var/run/docker.sock", image, "version", "--format", "{{.Server.Version}}")
	if want := docker(t, "version", "--format", "{{.Server.Version}}"); got != want {
		t.Errorf("the Engine's version from inside: %q, from outside: %q", got, want)
	}
}

func TestDynamicProgramBringsItsLibraries(t *testing.T) {
	t.Parallel()
	needEngine(t)
	if loader, err := loaderOf("/usr/bin/git"); err != nil || loader == "" {
		t.Skipf("this machine has no dynamic git: %v", err)
	}
	r := Alpine()
	r.Programs = map[string]string{"/usr/bin/git": "/usr/bin/git"}
	r.User, r.WorkingDir = "1000", "/tmp"
	image := load(t, r, "git")
	script := "git init -q --template= repo && cd repo && git -c user.name=x -c user.email=x commit -q --allow-empty -m one && git log --format=%s && id -u"
	if got := docker(t, "run", "--rm", "--network", "none", image, "sh", "-c", script); got != "one\n1000\n" {
		t.Errorf("git in the image printed %q", got)
	}
	if got := docker(t, "image", "inspect", "--format", `{{index .Config.Labels "slipway-test"}}`, image); got != image+"\n" {
		t.Errorf("label: %q", got)
	}
}

func TestRecipeIsDeterministic(t *testing.T) {
	t.Parallel()
	var archives [2]bytes.Buffer
	for i := range archives {
		if err := Alpine().WriteArchive(&archives[i], "slipway-test/alpine:1"); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0].Bytes(), archives[1].Bytes()) {
		t.Error("two archives of one recipe differ")
	}
}

func TestRecipeWithoutProgram(t *testing.T) {
	t.Parallel()
	r := Recipe{Programs: map[string]string{"/bin/x": "no-such-program-here"}}
	err := r.WriteArchive(&bytes.Buffer{}, "x:y")
	if err == nil || !strings.Contains(err.Error(), "find the program no-such-program-here") {
		t.Errorf("error: %v", err)
	}
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	script := Recipe{Programs: map[string]string{"/bin/x": text}}
	err = script.WriteArchive(&bytes.Buffer{}, "x:y")
	if err == nil || !strings.Contains(err.Error(), "is not a program that an image can carry") {
		t.Errorf("error: %v", err)
	}
}

func TestParseListed(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"\tlinux-vdso.so.1 (0x00007efdaaa9b000)\n":                               "",
		"\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007efda7c1e000)\n":  "/lib/x86_64-linux-gnu/libc.so.6",
		"\t/lib64/ld-linux-x86-64.so.2 (0x00007efdaaa9d000)\n":                   "/lib64/ld-linux-x86-64.so.2",
		"\tlibc.musl-x86_64.so.1 => /lib/ld-musl-x86_64.so.1 (0x7f9ee5a3c000)\n": "/lib/ld-musl-x86_64.so.1",
		"\tlibx.so => /opt/a folder/libx.so (0x7f9ee5a3c000)\n":                  "/opt/a folder/libx.so",
		"\tstatically linked\n":                                                  "",
	} {
		got, err := parseListed(line)
		if got != want || err != nil {
			t.Errorf("parseListed(%q) = %q, %v, want %q", line, got, err, want)
		}
	}
	if _, err := parseListed("\tlibssl.so.3 => not found\n"); err == nil {
		t.Error("a missing library is no error")
	}
}
