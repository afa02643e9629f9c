package source

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestHoldOfNothing: a folder that cannot be made is an error soon, not a reason to try for ever.
func TestHoldOfNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Symlink("/nowhere/at/all", filepath.Join(dir, "mirrors")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	l, err := hold(ctx, filepath.Join(dir, "mirrors", "p1"), useLock, shared)
	if !errors.Is(err, fs.ErrExist) || ctx.Err() != nil {
		t.Errorf("%v, %v, %v", l, err, ctx.Err())
	}
}
