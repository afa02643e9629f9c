package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Find says which config.toml to use: the one named explicitly; else ours, if it exists; else that of GitLab's own
// runner, if it exists; else ours, which is still to be written. foreign reports that the file is the place of
// GitLab's own runner, which may be running with it, also where it was named explicitly or is reached through a
// symbolic link. home may be empty; getenv is for XDG_CONFIG_HOME.
func Find(explicit, home string, root bool, getenv func(string) string) (path string, foreign bool, err error) {
	ours, theirs := places(home, root, getenv)
	path = explicit
	if path == "" && exists(ours) {
		path = ours
	}
	if path == "" && exists(theirs) {
		path = theirs
	}
	if path == "" {
		path = ours
	}
	if path == "" {
		return "", false, errors.New("find config.toml: there is no home directory; name the file with --config")
	}
	return path, resolved(path) == resolved(theirs), nil
}

// places gives the config.toml of ours, "" without a home, and that of GitLab's runner.
//
// GitLab: /etc/gitlab-runner for root, ~/.gitlab-runner for others, the working directory where there is no home.
func places(home string, root bool, getenv func(string) string) (ours, theirs string) {
	const name = "config.toml"
	if root {
		return "/etc/slipway/" + name, "/etc/gitlab-runner/" + name
	}
	theirs = name
	if home != "" {
		ours = filepath.Join(home, ".config", "slipway", name)
		theirs = filepath.Join(home, ".gitlab-runner", name)
	}
	if dir := getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		ours = filepath.Join(dir, "slipway", name)
	}
	return ours, theirs
}

// exists takes a file that cannot be looked at for existing: reading it will tell why.
func exists(path string) bool {
	if path == "" {
		return false
	}
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// resolved is the absolute path behind all symbolic links, as far as there are any.
func resolved(path string) string {
	if p, err := filepath.EvalSymlinks(path); err == nil {
		path = p
	}
	if p, err := filepath.Abs(path); err == nil {
		path = p
	}
	return filepath.Clean(path)
}

// StateDir is where Slipway keeps what is not configuration: state_dir of [slipway]; else /var/lib/slipway for root,
// $XDG_STATE_HOME/slipway or ~/.local/state/slipway for others. It is "" only without a home directory. cfg may be nil.
func StateDir(cfg *Config, home string, root bool, getenv func(string) string) string {
	xdg := getenv("XDG_STATE_HOME")
	switch {
	case cfg != nil && cfg.Slipway.StateDir != "":
		return cfg.Slipway.StateDir
	case root:
		return "/var/lib/slipway"
	case filepath.IsAbs(xdg):
		return filepath.Join(xdg, "slipway")
	case home == "":
		return ""
	}
	return filepath.Join(home, ".local", "state", "slipway")
}
