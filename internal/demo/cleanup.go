package demo

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

// cleanUpTime is how long taking one thing away may last. A busy Engine can need more than half a minute to take an
// aborted build down.
const cleanUpTime = 2 * time.Minute

// undo is what has to be taken away, in the order in which it was made.
type undo []func(context.Context) error

func (u *undo) add(f func(context.Context) error) { *u = append(*u, f) }

// cleanUp takes away what the demo made, the last thing first. It goes on after an error, and when ctx has ended.
func (d *demo) cleanUp(ctx context.Context) error {
	var errs []error
	for _, f := range slices.Backward(d.undo) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTime)
		errs = append(errs, f(ctx))
		cancel()
	}
	return errors.Join(errs...)
}

// patienceInUse is how often the removal of an outside image is tried that something else may be using by now.
const patienceInUse = 10

// removeImages removes from the Engine what the demo brought there: every name of its registry, the article's images
// unless they were there before, and what an aborted or failed build left without a name. An Engine that is still busy
// with taking an aborted build down gets some time for it.
func (d *demo) removeImages(ctx context.Context, before []string) error {
	if d.Keep {
		d.note("kept: the images %s/… on the Engine", d.registry.Host)
		d.note("  to remove them: docker images --format '{{.Repository}}:{{.Tag}}' | grep ^%s/ | xargs docker rmi", d.registry.Host)
		return nil
	}
	for try := 1; ; try++ {
		own, outside := d.tryRemoveImages(ctx, before)
		switch {
		case own == nil && outside == nil:
			return nil
		case own == nil && try == patienceInUse:
			d.note("left on the Engine, because it is in use: %v", outside)
			return nil
		}
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(own, outside)
		}
	}
}

func (d *demo) tryRemoveImages(ctx context.Context, before []string) (own, outside error) {
	own = d.Engine.RemoveLabeled(ctx, standInLabel, d.registry.Host)
	now, err := d.Engine.Images(ctx)
	own = errors.Join(own, err)
	for _, name := range now {
		switch {
		case strings.HasPrefix(name, d.registry.Host+"/"):
			own = errors.Join(own, d.Engine.RemoveImage(ctx, name))
		case d.fromHub && (name == dockerName || name == alpineName+":latest") && !slices.Contains(before, name):
			outside = errors.Join(outside, d.Engine.RemoveImage(ctx, name))
		}
	}
	// Only now have the layers of a broken build lost the name of their base.
	return errors.Join(own, d.Engine.RemoveLabeled(ctx, standInLabel, d.registry.Host)), outside
}
