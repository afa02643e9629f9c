package main

import (
	"context"
	"fmt"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/job"
)

// serviceImage answers on its port 0.2 s after it was started.
const serviceImage = imagePrefix + "service:1"

// service adds the row of a job with a service, in turn with the same job without.
func (r *rig) service(ctx context.Context, runs int, t *table) error {
	recipe := demo.Alpine()
	recipe.Cmd = []string{"sh", "-c", "sleep 0.2; exec busybox httpd -f -p 8080"}
	recipe.Ports = []string{"8080/tcp"}
	if err := r.load(ctx, serviceImage, recipe); err != nil {
		return err
	}
	var without pair
	with, _, err := r.inTurn(ctx, runs, r.serviceJob, func(ctx context.Context) error {
		times, err := r.finished(ctx, r.trivialJob())
		without.ours = append(without.ours, times.Final.Sub(times.HandedOut))
		return err
	})
	if err != nil {
		return err
	}
	more := median(with.ours) - median(without.ours)
	t.row("trivial job with a service", spread(with.ours), spread(without.ours), fmt.Sprintf("+%.2f s", more.Seconds()), "+0.6 s, 0.2 s of it the service's own")
	return nil
}

func (r *rig) serviceJob() *coordinator.Job {
	s := r.spec("echo hello")
	s.Services = []job.Service{{Image: job.Image{Name: serviceImage}, Alias: "web"}}
	return r.Enqueue(s)
}
