package guard

import (
	"path"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
)

// maxStopTimeout bounds how long a container may take to stop: the end of the job waits for nobody longer.
const maxStopTimeout = 60

// config decides about what a container is made of, apart from the host.
func (p *planner) config(in *createRequest, img image) (container.Config, error) {
	for target := range in.Config.Volumes {
		if err := checkTarget(target); err != nil || strings.Contains(target, ":") {
			return container.Config{}, badRequest("invalid volume specification: '%s': invalid mount config for type \"volume\": invalid mount path: '%s' mount path must be absolute", printable(target), printable(target))
		}
	}
	labels, command := 0, 0
	for k, v := range in.Labels {
		labels += len(k) + len(v)
	}
	for _, word := range slices.Concat(in.Entrypoint, in.Cmd) {
		command += len(word)
	}
	if labels > maxLabels || command > maxCommand {
		return container.Config{}, badRequest("slipway: labels (%d bytes) or command (%d bytes) are too long: at most %d and %d", labels, command, maxLabels, maxCommand)
	}
	if in.MacAddress != "" {
		p.warn("a MAC address of one's own was dropped")
	}
	return container.Config{
		Hostname:   in.Hostname,
		Domainname: in.Domainname,
		User:       in.User,
		// Streams.
		AttachStdin: in.AttachStdin, AttachStdout: in.AttachStdout, AttachStderr: in.AttachStderr,
		Tty: in.Tty, OpenStdin: in.OpenStdin, StdinOnce: in.StdinOnce,
		// What runs.
		Env: in.Env, Cmd: in.Cmd, Entrypoint: in.Entrypoint, Shell: in.Shell, ArgsEscaped: in.ArgsEscaped, WorkingDir: in.WorkingDir,
		Healthcheck: p.health(in.Healthcheck), StopSignal: in.StopSignal, StopTimeout: p.stopTimeout(in.StopTimeout),
		// By ID: the name could mean another image by the time that the Engine looks.
		Image:           img.ID,
		Volumes:         in.Config.Volumes,
		ExposedPorts:    in.ExposedPorts,
		NetworkDisabled: in.NetworkDisabled,
		Labels:          p.policy.labels(in.Labels),
	}, nil
}

// Labels and commands are in each list of containers, also in those that other jobs ask for.
const (
	maxLabels  = 256 << 10
	maxCommand = 1 << 20 // the kernel takes twice as much, the environment among it
)

func (p *planner) stopTimeout(t *int) *int {
	if t == nil || *t >= 0 && *t <= maxStopTimeout {
		return t
	}
	p.warn("the stop timeout of %d s became %d s", *t, maxStopTimeout)
	n := maxStopTimeout
	return &n
}

// health keeps checks from being run without a pause.
func (p *planner) health(in *container.HealthConfig) *container.HealthConfig {
	if in == nil {
		return nil
	}
	out := *in
	for _, d := range []*time.Duration{&out.Interval, &out.StartInterval} {
		if *d != 0 && *d < time.Second {
			p.warn("the health check's interval of %s became 1s", *d)
			*d = time.Second
		}
	}
	// A field of newer Engines that older ones do not know is simply not read there.
	return &out
}

// checkTarget refuses a path in a container that the Engine would not take.
func checkTarget(target string) error {
	if !path.IsAbs(target) || path.Clean(target) == "/" || strings.ContainsAny(target, "\x00") {
		return badRequest("invalid mount config: invalid mount path: '%s' must be absolute and not '/'", printable(target))
	}
	return nil
}
