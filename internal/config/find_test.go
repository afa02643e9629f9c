package config

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFind(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		files    []string // in the home folder
		explicit string
		xdg      bool
		want     string
		foreign  bool
	}{
		{name: "nothing there", want: ".config/slipway/config.toml"},
		{name: "nothing there, XDG", xdg: true, want: "xdg/slipway/config.toml"},
		{name: "ours", files: []string{".config/slipway/config.toml"}, want: ".config/slipway/config.toml"},
		{name: "GitLab's", files: []string{".gitlab-runner/config.toml"}, want: ".gitlab-runner/config.toml", foreign: true},
		{name: "both", files: []string{".config/slipway/config.toml", ".gitlab-runner/config.toml"}, want: ".config/slipway/config.toml"},
		{name: "ours elsewhere", files: []string{".config/slipway/config.toml", ".gitlab-runner/config.toml"}, xdg: true, want: ".gitlab-runner/config.toml", foreign: true},
		{name: "named", files: []string{".config/slipway/config.toml"}, explicit: "other.toml", want: "other.toml"},
		{name: "GitLab's, named", explicit: ".gitlab-runner/../.gitlab-runner/config.toml", want: ".gitlab-runner/../.gitlab-runner/config.toml", foreign: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			home := t.TempDir()
			for _, f := range c.files {
				if err := os.MkdirAll(filepath.Join(home, filepath.Dir(f)), 0o700); err != nil {
					t.Fatal(err)
				}
				put(t, filepath.Join(home, f), "", 0o600)
			}
			vars := map[string]string{}
			if c.xdg {
				vars["XDG_CONFIG_HOME"] = filepath.Join(home, "xdg")
			}
			explicit := c.explicit
			if explicit != "" {
				explicit = home + "/" + explicit
			}
			path, foreign, err := Find(explicit, home, false, env(vars))
			if err != nil || path != home+"/"+c.want || foreign != c.foreign {
				t.Errorf("%s, %v, %v", path, foreign, err)
			}
		})
	}
}

// A link of ours to GitLab's file is GitLab's file.
func TestFindThroughALink(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	theirs, ours := filepath.Join(home, ".gitlab-runner", "config.toml"), filepath.Join(home, ".config", "slipway", "config.toml")
	for _, f := range []string{theirs, ours} {
		if err := os.MkdirAll(filepath.Dir(f), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	put(t, theirs, "", 0o600)
	if err := os.Symlink(theirs, ours); err != nil {
		t.Fatal(err)
	}
	path, foreign, err := Find("", home, false, noEnv)
	if path != ours || !foreign || err != nil {
		t.Errorf("%s, %v, %v", path, foreign, err)
	}
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	xdg := env(map[string]string{"XDG_CONFIG_HOME": "/x", "XDG_STATE_HOME": "/y"})
	relative := env(map[string]string{"XDG_CONFIG_HOME": "x", "XDG_STATE_HOME": "y"})
	for _, c := range []struct {
		home                string
		root                bool
		getenv              func(string) string
		ours, theirs, state string
	}{
		{"/root", true, noEnv, "/etc/slipway/config.toml", "/etc/gitlab-runner/config.toml", "/var/lib/slipway"},
		{"/root", true, xdg, "/etc/slipway/config.toml", "/etc/gitlab-runner/config.toml", "/var/lib/slipway"},
		{"/home/u", false, noEnv, "/home/u/.config/slipway/config.toml", "/home/u/.gitlab-runner/config.toml", "/home/u/.local/state/slipway"},
		{"/home/u", false, xdg, "/x/slipway/config.toml", "/home/u/.gitlab-runner/config.toml", "/y/slipway"},
		{"/home/u", false, relative, "/home/u/.config/slipway/config.toml", "/home/u/.gitlab-runner/config.toml", "/home/u/.local/state/slipway"},
		{"", false, xdg, "/x/slipway/config.toml", "config.toml", "/y/slipway"},
		{"", false, noEnv, "", "config.toml", ""},
	} {
		ours, theirs := places(c.home, c.root, c.getenv)
		if ours != c.ours || theirs != c.theirs {
			t.Errorf("places(%q, %v) = %q, %q", c.home, c.root, ours, theirs)
		}
		if got := StateDir(nil, c.home, c.root, c.getenv); got != c.state {
			t.Errorf("StateDir(%q, %v) = %q", c.home, c.root, got)
		}
		if got := StateDir(&Config{Slipway: Slipway{StateDir: "/srv"}}, c.home, c.root, c.getenv); got != "/srv" {
			t.Errorf("StateDir with state_dir = %q", got)
		}
	}
	_, _, err := Find("", "", false, noEnv)
	if err == nil || err.Error() != "find config.toml: there is no home directory; name the file with --config" {
		t.Error(err)
	}
}
