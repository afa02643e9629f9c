package e2e

import (
	"context"
	"testing"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/job"
)

// withSocket gives jobs the machine's Engine.
func withSocket() option {
	return dockerKeys(`volumes = ["/var/run/docker.sock:/var/run/docker.sock", "/cache", "/builds"]`)
}

// TestBuildsThatFail: what went wrong stands in the log, in the words of the program that failed, and the job has its
// exit code.
func TestBuildsThatFail(t *testing.T) {
	t.Parallel()
	r := newRig(t, withSocket())
	registry, err := demo.StartRegistry()
	if err != nil {
		t.Fatal(err)
	}
	r.AddProject(coordinator.Project{ID: 7, Path: "group/demo", Registry: registry.Host, RegistryUser: registry.User, RegistryPassword: job.Secret(registry.Password)})
	image := registry.Host + "/group/demo:failing"
	t.Cleanup(func() { _ = r.engine.RemoveImage(context.Background(), image) })
	t.Run("a step of the Dockerfile fails", func(t *testing.T) {
		r := r.in(t)
		log := r.fails(job.ScriptFailure, 7, withImage(spec(
			`printf 'FROM `+alpine+`\nRUN echo before; exit 7\n' >Dockerfile`, "docker build --no-cache --force-rm -t "+image+" .", "echo never",
		), dockerClient))
		wants(t, log, "\nbefore\n", "returned a non-zero code: 7", "ERROR: Job failed: exit code 7")
		lacks(t, log, "\nnever")
	})
	t.Run("the registry is down", func(t *testing.T) {
		if err := registry.Close(); err != nil {
			t.Fatal(err)
		}
		defer hold(t, registry.Host)()
		r := r.in(t)
		log := r.fails(job.ScriptFailure, 1, withAfter(withImage(spec(
			"printf 'FROM "+alpine+"\nLABEL a=b\n' | docker build -t "+image+" -", "docker push "+image, "echo never",
		), dockerClient), "docker image ls -q "+image))
		wants(t, log, "The push refers to repository ["+registry.Host+"/group/demo]", "connection refused", "ERROR: Job failed: exit code 1")
		lacks(t, log, "\nnever")
	})
}
