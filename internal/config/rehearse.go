package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// CanSetCredentials finds out whether SetCredentials will be able to change the file, before the server is asked for a
// token that would then be lost. The file is replaced by a copy of itself: nothing less shows that it can be.
func CanSetCredentials(path string, r *Runner) error {
	target, err := linked(path)
	if err != nil {
		return fmt.Errorf("rewrite %s: %w", path, err)
	}
	unlock, err := lock(filepath.Dir(target))
	if err != nil {
		return unreadable(path, err)
	}
	defer unlock()
	src, err := read(target)
	if err != nil {
		return err
	}
	now := time.Now()
	trial := Credentials{ID: r.ID, Token: "glrt-trial", ObtainedAt: now, ExpiresAt: now.Add(time.Hour)}
	if _, err := setCredentials(path, src, r, trial, os.Getenv); err != nil {
		return err
	}
	temp, err := write(target, src)
	if err != nil {
		return unwritable(path, err)
	}
	if err := os.Rename(temp, target); err != nil {
		return unwritable(path, errors.Join(err, os.Remove(temp)))
	}
	return nil
}
