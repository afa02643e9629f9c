package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/job"
)

// dindForm is the article's pipeline for a Docker-in-Docker, as one of its readers writes it.
type dindForm struct {
	name    string
	command []string // of the service
	build   []string
	gitlab  string // what GitLab's own runner needs for it, with its Docker-in-Docker really started, as was measured
}

// dind adds the rows of pipelines that are written for a Docker-in-Docker: their second run, with a base image in the
// registry and a step that takes 5 s if it is not cached.
func (r *rig) dind(ctx context.Context, runs int, t *table) error {
	registry, err := demo.StartRegistry()
	if err != nil {
		return err
	}
	defer registry.Close()
	r.registry = registry.Host
	project, err := r.dindProject(ctx, registry)
	if err != nil {
		return err
	}
	image := registry.Host + "/" + project.Path + ":main"
	build := "docker build -t " + image + " ."
	for _, form := range []dindForm{
		{"as documented", nil, []string{build}, "26.0 s"},
		{"--tls=false", []string{"--tls=false"}, []string{build}, "10.5 s"},
		{"--tls=false, pull, --cache-from", []string{"--tls=false"}, []string{"docker pull " + image + " || true", "docker build --cache-from " + image + " -t " + image + " ."}, "5.1 s"},
	} {
		var times []time.Duration
		var pulled int64
		for i := range runs + 1 {
			before := registry.Requests().Sent
			done, err := r.finished(ctx, r.dindJob(project, registry, form, image))
			if err != nil {
				return err
			}
			if i == 0 {
				continue // cold
			}
			times = append(times, done.Final.Sub(done.HandedOut))
			pulled = max(pulled, registry.Requests().Sent-before)
		}
		t.row("docker:dind, "+form.name, spread(times), "", "GitLab's runner "+form.gitlab, "≤ 1.0 s")
		t.row("the same, pulled per job", fmt.Sprintf("%.1f kB", float64(pulled)/1e3), "", "", "≤ 10 kB")
	}
	return r.startedDind(ctx, min(runs, 5), registry, image, t)
}

// dindProject is the article's project, whose base image is in its registry.
func (r *rig) dindProject(ctx context.Context, registry *demo.Registry) (coordinator.Project, error) {
	p := coordinator.Project{Path: "bench/dind", RepoDir: filepath.Join(r.dir, "dind.git"), Registry: registry.Host, RegistryUser: registry.User, RegistryPassword: job.Secret(registry.Password)}
	if err := registry.Push(ctx, p.Path+"/base:1", demo.Alpine()); err != nil {
		return p, err
	}
	var err error
	r.dindHead, err = repository(ctx, filepath.Join(r.dir, "dind"), p.RepoDir, map[string]string{
		"Dockerfile": "FROM " + registry.Host + "/" + p.Path + "/base:1\nRUN echo " + filepath.Base(r.dir) + " > /long && sleep 5\nCOPY app.txt /\nRUN cat /long\n",
		"app.txt":    "hello\n",
	})
	if err != nil {
		return p, err
	}
	return r.AddProject(p), nil
}

// dindJob is the article's job for a Docker-in-Docker, unedited.
func (r *rig) dindJob(p coordinator.Project, registry *demo.Registry, form dindForm, image string) *coordinator.Job {
	script := append([]string{
		"until docker info >/dev/null 2>&1; do sleep 0.1; done",
		`docker login -u "$USER_NAME" -p "$PASSWORD" ` + registry.Host,
	}, form.build...)
	s := r.spec(append(script, "docker push "+image)...)
	s.JobInfo.ProjectID, s.JobInfo.ProjectFullPath = p.ID, p.Path
	s.Services = []job.Service{{Image: job.Image{Name: "docker:dind"}, Command: form.command}}
	s.GitInfo = job.Git{SHA: r.dindHead, Ref: "main", RefType: "branch", Depth: 20, Refspecs: []string{"+refs/heads/main:refs/remotes/origin/main"}}
	for k, v := range map[string]string{"DOCKER_HOST": "tcp://docker:2375", "DOCKER_TLS_CERTDIR": "", "DOCKER_BUILDKIT": "0", "USER_NAME": registry.User, "PASSWORD": registry.Password} {
		s.Variables = append(s.Variables, job.Variable{Key: k, Value: v})
	}
	return r.Enqueue(s)
}
