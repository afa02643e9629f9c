package demo

import (
	"context"
	_ "embed" // the sample project
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

var (
	//go:embed sample/gitlab-ci.yml
	samplePipeline string
	//go:embed sample/Dockerfile
	sampleDockerfile string
	//go:embed sample/README.md
	sampleReadme string
	//go:embed sample/config.toml
	sampleConfig string
)

// The two lines of the sample that name images, and that change when stand-ins take their place.
const (
	imageLine = "image: " + dockerName
	fromLine  = "FROM " + alpineName
)

// branch is where the sample's one commit is.
const branch = "main"

// sample is what the sample project depends on.
type sample struct {
	Nonce    string        // makes the long step one that no Engine has seen
	Sleep    time.Duration // of the long step
	Registry string        // host of the stand-in images, "" for the names as they are
}

// files are the project's files by their names.
func (s sample) files() map[string]string {
	pipeline, dockerfile := samplePipeline, strings.NewReplacer(
		"NONCE", s.Nonce,
		"SECONDS", strconv.FormatFloat(s.Sleep.Seconds(), 'f', -1, 64),
	).Replace(sampleDockerfile)
	for _, c := range s.changes() {
		pipeline = strings.Replace(pipeline, c.from, c.to, 1)
		dockerfile = strings.Replace(dockerfile, c.from, c.to, 1)
	}
	return map[string]string{".gitlab-ci.yml": pipeline, "Dockerfile": dockerfile, "README.md": sampleReadme}
}

// change is a line of the article's files that the demo had to write in another way.
type change struct{ file, from, to string }

func (s sample) changes() []change {
	if s.Registry == "" {
		return nil
	}
	return []change{
		{".gitlab-ci.yml", imageLine, "image: $CI_REGISTRY/" + dockerName},
		{"Dockerfile", fromLine, "FROM " + s.Registry + "/" + alpineName}, // a Dockerfile knows no CI variables
	}
}

// repository is the sample project on disk.
type repository struct {
	Bare     string // what the coordinator serves
	Checkout string // a checkout of the same commit, for the plain build
}

// create writes the sample into dir as a repository with one commit on branch.
func (s sample) create(ctx context.Context, dir string) (repository, error) {
	r := repository{Bare: filepath.Join(dir, "project.git"), Checkout: filepath.Join(dir, "checkout")}
	if err := os.MkdirAll(r.Checkout, 0o755); err != nil {
		return r, fmt.Errorf("make the sample project: %w", err)
	}
	for name, text := range s.files() {
		if err := os.WriteFile(filepath.Join(r.Checkout, name), []byte(text), 0o644); err != nil {
			return r, fmt.Errorf("make the sample project: %w", err)
		}
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--template=", "--initial-branch=" + branch},
		{"add", "--all"},
		{"commit", "--quiet", "--message=Build the image in a pipeline"},
		{"clone", "--quiet", "--bare", "--template=", ".", r.Bare},
	} {
		if err := git(ctx, r.Checkout, args...); err != nil {
			return r, fmt.Errorf("make the sample project: %w", err)
		}
	}
	return r, nil
}

// git runs Git in dir, untouched by the settings of whoever runs the demo.
func git(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_AUTHOR_NAME=Slipway", "GIT_AUTHOR_EMAIL=demo@slipway.invalid",
		"GIT_COMMITTER_NAME=Slipway", "GIT_COMMITTER_EMAIL=demo@slipway.invalid",
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git %s: %w\n%s", args[0], err, out)
	}
	return nil
}
