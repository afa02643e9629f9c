package demo

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSampleFiles(t *testing.T) {
	t.Parallel()
	article := sample{Nonce: "abc", Sleep: time.Minute}.files()
	if diff := cmp.Diff(samplePipeline, article[".gitlab-ci.yml"]); diff != "" {
		t.Errorf("the pipeline is not the article's (-want +got):\n%s", diff)
	}
	want := "FROM alpine\nRUN echo \"built once, by demo abc\" > /built && sleep 60\nRUN cat /built\n"
	if diff := cmp.Diff(want, article["Dockerfile"]); diff != "" {
		t.Errorf("Dockerfile (-want +got):\n%s", diff)
	}

	standIns := sample{Nonce: "abc", Sleep: 1500 * time.Millisecond, Registry: "127.0.0.1:5000"}
	files := standIns.files()
	wantLine := func(file, line string) {
		t.Helper()
		if !strings.Contains("\n"+files[file], "\n"+line+"\n") {
			t.Errorf("%s has no line %q:\n%s", file, line, files[file])
		}
	}
	wantLine(".gitlab-ci.yml", "  image: $CI_REGISTRY/docker:20.10.7")
	wantLine("Dockerfile", "FROM 127.0.0.1:5000/alpine")
	wantLine("Dockerfile", `RUN echo "built once, by demo abc" > /built && sleep 1.5`)
	if n := len(standIns.changes()); n != 2 {
		t.Errorf("%d changes", n)
	}
	for file, text := range article {
		changed := 0
		before, after := strings.Split(text, "\n"), strings.Split(files[file], "\n")
		for i := range min(len(before), len(after)) {
			if before[i] != after[i] && !strings.Contains(before[i], "sleep") {
				changed++
			}
		}
		if len(before) != len(after) || changed > 1 || (changed == 1) == (file == "README.md") {
			t.Errorf("%s: %d lines became %d, %d of them changed", file, len(before), len(after), changed)
		}
	}
}

func TestSampleRepository(t *testing.T) {
	t.Setenv("GIT_DIR", "/nonsense") // the user's Git settings do not reach the sample
	t.Setenv("GIT_CONFIG_COUNT", "x")
	r, err := sample{Nonce: "abc", Sleep: time.Second}.create(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	os.Unsetenv("GIT_DIR") // until the test ends, when Setenv restores it
	os.Unsetenv("GIT_CONFIG_COUNT")
	out, err := exec.Command("git", "--git-dir", r.Bare, "ls-tree", "-r", "--name-only", branch).CombinedOutput()
	if err != nil || string(out) != ".gitlab-ci.yml\nDockerfile\nREADME.md\n" {
		t.Errorf("files of %s: %v\n%s", branch, err, out)
	}
	if _, err := os.Stat(filepath.Join(r.Checkout, "Dockerfile")); err != nil {
		t.Error(err)
	}
	hooks, err := os.ReadDir(filepath.Join(r.Bare, "hooks"))
	if len(hooks) > 0 {
		t.Errorf("hooks in the repository: %v, %v", hooks, err)
	}
}
