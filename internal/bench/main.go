// Command bench measures Slipway beside a hand-written minimum: the fewest calls of the Engine that do the same work,
// with the same images, in turn with Slipway's jobs. Its ratios hold where the machine's speed drifts; its seconds are
// for an idle machine. It never fails on a time.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

func main() {
	slipway := flag.String("slipway", "bin/slipway", "the command to measure")
	socket := flag.String("socket", "guarded", "the socket of jobs: guarded or raw")
	runs := flag.Int("runs", 21, "runs of each row that is measured in turn")
	only := flag.String("only", "", "measure only the guard beside the Engine's socket (guard), or how archives are packed and unpacked (archives)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := measure(ctx, *only, *slipway, *socket, *runs, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, only, slipway, socket string, runs int, out io.Writer) error {
	var t table
	switch only {
	case "":
		return run(ctx, slipway, socket, runs, out)
	case "archives":
		return errors.Join(archives(ctx, max(runs/7, 1), &t), t.write(out))
	case "guard":
		r, err := newRig(ctx, slipway, socket)
		if err != nil {
			return err
		}
		return errors.Join(r.guard(ctx, slipway, runs, &t), r.close(context.WithoutCancel(ctx)), t.write(out))
	}
	return fmt.Errorf("-only %s: guard or archives", only)
}

func run(ctx context.Context, slipway, socket string, runs int, out io.Writer) (err error) {
	r, err := newRig(ctx, slipway, socket)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close(context.WithoutCancel(ctx))) }()
	var t table

	warm, first, err := r.inTurn(ctx, runs, r.warmJob, r.warmMinimum)
	if err != nil {
		return fmt.Errorf("warm build: %w", err)
	}
	t.pair("hand-out → final status, warm build", warm, "p50 ≤ 0.7 s, p95 ≤ 1.2 s, ≤ 1.5×")

	before, err := r.usage()
	if err != nil {
		return err
	}
	trivial, firstTrivial, err := r.inTurn(ctx, runs, r.trivialJob, r.trivialMinimum)
	if err != nil {
		return fmt.Errorf("trivial job: %w", err)
	}
	after, err := r.usage()
	if err != nil {
		return err
	}
	t.pair("the same, trivial job", trivial, "p50 ≤ 0.5 s, ≤ 1.6×")
	t.single("first log byte", append(first, firstTrivial...), "≤ 0.1 s")

	if err := r.service(ctx, runs, &t); err != nil {
		return fmt.Errorf("service: %w", err)
	}
	made, err := r.containersPerJob(ctx)
	if err != nil {
		return err
	}
	t.row("containers created per job", fmt.Sprint(made), "", "", "1")

	ours, minimum, err := r.throughput(ctx, 20, 8)
	if err != nil {
		return fmt.Errorf("throughput: %w", err)
	}
	t.row("20 trivial jobs, concurrent = 8", perMinute(20, ours), perMinute(20, minimum), ratio(ours, minimum), "≥ 100 a minute")
	if err := r.dind(ctx, max(runs/3, 3), &t); err != nil {
		return fmt.Errorf("Docker-in-Docker: %w", err)
	}
	if err := r.guard(ctx, slipway, runs, &t); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	if err := archives(ctx, max(runs/7, 3), &t); err != nil {
		return fmt.Errorf("archives: %w", err)
	}
	jobs := time.Duration(runs + 1)
	t.row("runner RSS", fmt.Sprintf("%.0f MiB", float64(after.rss)/(1<<20)), "", "", "≤ 60 MiB")
	t.row("runner CPU per trivial job", fmt.Sprintf("%d ms", ((after.cpu-before.cpu)/jobs).Milliseconds()), "", "", "≤ 40 ms")
	return t.write(out)
}

// inTurn measures a job and its minimum by turns, after one run of each that is not counted.
func (r *rig) inTurn(ctx context.Context, runs int, start func() *coordinator.Job, minimum func(context.Context) error) (p pair, firstBytes []time.Duration, err error) {
	for i := range runs + 1 {
		times, err := r.finished(ctx, start())
		if err != nil {
			return p, nil, err
		}
		began := time.Now()
		if err := minimum(ctx); err != nil {
			return p, nil, fmt.Errorf("the minimum: %w", err)
		}
		took := time.Since(began)
		if i == 0 {
			continue
		}
		p.ours = append(p.ours, times.Final.Sub(times.HandedOut))
		p.minimum = append(p.minimum, took)
		firstBytes = append(firstBytes, times.FirstByte.Sub(times.HandedOut))
	}
	return p, firstBytes, nil
}

// finished waits for a job, which must succeed.
func (r *rig) finished(ctx context.Context, j *coordinator.Job) (coordinator.Times, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	o, err := j.Wait(ctx)
	if err != nil {
		return coordinator.Times{}, fmt.Errorf("job %d: %w\n%s", j.ID(), err, j.Trace())
	}
	if o.State != job.Success {
		return coordinator.Times{}, fmt.Errorf("job %d ended as %s:\n%s", j.ID(), o.State, j.Trace())
	}
	return j.Times(), nil
}
