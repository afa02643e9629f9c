package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/internal/job"
)

// demoOptions is what a demo is made of.
type demoOptions struct {
	Sleep   time.Duration // how long the sample's long step takes
	Keep    bool          // leave the containers, images and files behind
	Offline bool          // take stand-in images without looking for a registry
	Build   Build
	Log     *slog.Logger
	Stdout  io.Writer // job logs and the table
	Stderr  io.Writer // what the demo does meanwhile
	Colour  bool      // Stdout is a terminal
}

func (a *app) demoCommand() *cobra.Command {
	o := demoOptions{Build: a.build, Stdout: a.stdout, Stderr: a.stderr, Colour: colours(a.stdout)}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See a job build and push an image twice: cold, then warm",
		Long: `Demo needs nothing but a Docker Engine on this machine. It brings a small GitLab, a registry and a sample project, lets
slipway run the project's pipeline twice, shows both job logs and compares the two runs. Nothing is left behind.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.demo(cmd.Context(), o) },
	}
	fs := cmd.Flags()
	fs.DurationVar(&o.Sleep, "sleep", 10*time.Second, "how long the sample's long build step takes")
	fs.BoolVar(&o.Offline, "offline", false, "take stand-in images without looking for an outside registry")
	fs.BoolVar(&o.Keep, "keep", false, "leave containers, images and files behind")
	return cmd
}

func (a *app) demo(ctx context.Context, o demoOptions) error {
	if o.Sleep < 0 {
		return usagef("", "--sleep must not be negative")
	}
	log, _, err := a.logger("warn", "")
	if err != nil {
		return err
	}
	o.Log = log

	listening, deaf := context.WithCancel(ctx) // outlives the first signal, for the second one
	defer deaf()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	signals, stop := notify(syscall.SIGTERM, syscall.SIGQUIT, os.Interrupt)
	defer stop()
	go signalActions{
		drain: func() { cancel(job.ErrShutdown) }, // a demo takes no jobs from others that could be left to end
		abort: func(os.Signal) { cancel(job.ErrShutdown) },
		exit:  exitAtOnce,
	}.handle(listening, signals)

	err = runDemo(ctx, o)
	if err != nil && ctx.Err() != nil {
		return errInterrupted
	}
	if err == nil {
		fmt.Fprintln(a.stderr, "next: slipway register makes this machine a runner of your GitLab; on one with GitLab's own runner, slipway run takes its config.toml")
	}
	return err
}
