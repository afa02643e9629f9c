// Package source brings a job's commit into its workspace: mirrors, checkouts and the Git directory that the job sees.
// It takes every workspace and every remote repository for hostile and knows nothing of containers.
//
// Three places keep Git's files apart. The mirror is a bare repository per project; jobs see its objects read-only.
// The checkout's index lies in a host-only folder. The job's own .git is written anew for each job and never read:
// what stands in it could otherwise make the host's Git run a program.
package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// Store keeps the mirrors and workspaces of one state folder. Several processes may share it.
type Store struct {
	dir string
	git *git
	log *slog.Logger
}

// Open makes sure of the folders below dir and of a Git command that is new enough.
func Open(dir string, log *slog.Logger) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open source store: %w", err)
	}
	for _, d := range []string{dir, filepath.Join(dir, "mirrors"), filepath.Join(dir, "workspaces"), filepath.Join(dir, "home")} {
		if err := privateDir(d); err != nil {
			return nil, fmt.Errorf("open source store: %w", err)
		}
	}
	g, err := findGit(filepath.Join(dir, "home"))
	if err != nil {
		return nil, fmt.Errorf("open source store: %w", err)
	}
	return &Store{dir: dir, git: g, log: log}, nil
}

// Maintain merges the packs of mirrors that have collected many. It passes over mirrors whose project has a
// workspace open; call it when the runner is idle. Of a mirror that is in use Git's objects are never dropped, but mirrors and
// workspaces that no job has asked for since Unused go.
func (s *Store) Maintain(ctx context.Context) error {
	dirs, err := filepath.Glob(filepath.Join(s.dir, "mirrors", "*"))
	if err != nil {
		return fmt.Errorf("list mirrors: %w", err)
	}
	n, err := s.evict(ctx, Unused)
	if n > 0 {
		s.log.Info("removed sources that no job has asked for", "mirrors and workspaces", n, "for", Unused)
	}
	errs := []error{err}
	for _, dir := range dirs {
		if strings.HasPrefix(filepath.Base(dir), movedAway) {
			continue
		}
		if err := (&mirror{dir: dir, git: s.git}).maintain(ctx); err != nil {
			errs = append(errs, fmt.Errorf("maintain mirror %s: %w", filepath.Base(dir), err))
		}
	}
	return errors.Join(errs...)
}

// privateDir makes dir, which only the runner's own user may enter.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}
