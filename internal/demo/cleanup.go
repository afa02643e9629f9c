package demo

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

// cleanUpTime is how long taking one thing away may last.
const cleanUpTime = 30 * time.Second

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

// removeImages removes from the Engine what the demo brought there: every name of its registry, the article's images
// unless they were there before, and what an aborted or failed build left without a name. An Engine that is still busy
// with taking an aborted build down gets some time for it.
func (d *demo) removeImages(ctx context.Context, before []string) error {
	if d.Keep {
		d.note("kept: the images %s/… on the Engine", d.registry.Host)
		return nil
	}
	for {
		err := d.tryRemoveImages(ctx, before)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

func (d *demo) tryRemoveImages(ctx context.Context, before []string) error {
	errs := []error{d.Engine.RemoveLabeled(ctx, nonceLabel, d.nonce)}
	now, err := d.Engine.Images(ctx)
	errs = append(errs, err)
	for _, name := range now {
		ours := strings.HasPrefix(name, d.registry.Host+"/")
		pulled := d.sample.Registry == "" && (name == dockerName || name == alpineName+":latest") && !slices.Contains(before, name)
		if ours || pulled {
			errs = append(errs, d.Engine.RemoveImage(ctx, name))
		}
	}
	// Only now have the layers of a broken build lost the name of their base.
	return errors.Join(append(errs, d.Engine.RemoveLabeled(ctx, nonceLabel, d.nonce))...)
}
