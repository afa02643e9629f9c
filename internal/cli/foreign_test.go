package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestFindRunner looks for runners in a /proc of our own making: what cannot be had in every test environment. The
// script beside.txtar does the same with real processes.
func TestFindRunner(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("0123456789abcdef", 4)
	for _, tc := range []struct {
		name        string
		cmdline     []string
		environ     []string
		cgroup      string
		theirs      string // the file that the process would see, below its root folder
		want        string
		stop, start string
	}{
		{
			name: "a unit", cmdline: []string{"/usr/bin/gitlab-runner", "run", "--config", "/c.toml", "--syslog"},
			cgroup: "0::/system.slice/gitlab-runner.service\n", theirs: "c.toml",
			want: "gitlab-runner (process 41, unit gitlab-runner.service)",
			stop: "systemctl disable --now gitlab-runner.service", start: "systemctl enable --now gitlab-runner.service",
		},
		{
			name: "a container, whose file is a mount of ours", cmdline: []string{"gitlab-runner", "run", "-c", "/etc/other/c.toml"},
			cgroup: "0::/system.slice/docker-" + id + ".scope\n", theirs: "etc/other/c.toml",
			want: "gitlab-runner (process 41, container 0123456789ab)",
			stop: "docker stop 0123456789ab", start: "docker start 0123456789ab",
		},
		{
			name: "words that need quotes", cmdline: []string{"gitlab-runner", "run", "--config=/c.toml", "--user", "it's"},
			theirs: "c.toml", want: "gitlab-runner (process 41)",
			stop: "kill -QUIT 41", start: `gitlab-runner run --config=/c.toml --user 'it'\''s'`,
		},
		{
			name: "the variable", cmdline: []string{"gitlab-runner", "run"}, environ: []string{"CONFIG_FILE=/c.toml"},
			theirs: "c.toml", want: "gitlab-runner (process 41)", stop: "kill -QUIT 41", start: "gitlab-runner run",
		},
		{
			name: "another file of that name", cmdline: []string{"gitlab-runner", "run", "-c", "/c.toml"}, theirs: "",
		},
		{
			name: "another command", cmdline: []string{"gitlab-runner", "verify", "-c", "/c.toml"}, theirs: "c.toml",
		},
		{
			name: "another program", cmdline: []string{"vi", "run", "-c", "/c.toml"}, theirs: "c.toml",
		},
		{name: "a kernel thread"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			proc, root := t.TempDir(), t.TempDir()
			ours := filepath.Join(t.TempDir(), "config.toml")
			write(t, ours, "concurrent = 1\n")
			if tc.theirs != "" {
				link := filepath.Join(root, tc.theirs)
				if err := os.MkdirAll(filepath.Dir(link), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.Link(ours, link); err != nil {
					t.Fatal(err)
				}
			}
			write(t, filepath.Join(proc, "self/cgroup"), "0::/user.slice\n")
			write(t, filepath.Join(proc, "41/cmdline"), nul(tc.cmdline))
			write(t, filepath.Join(proc, "41/environ"), nul(tc.environ))
			write(t, filepath.Join(proc, "41/cgroup"), tc.cgroup)
			if err := os.Symlink(root, filepath.Join(proc, "41/root")); err != nil {
				t.Fatal(err)
			}
			r, found := findRunner(proc, ours)
			if found != (tc.want != "") {
				t.Fatalf("found: %t, want %q", found, tc.want)
			}
			if !found {
				return
			}
			stop, start := r.commands()
			if diff := cmp.Diff([]string{tc.want, tc.stop, tc.start}, []string{r.String(), stop, start}); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestConfigOf: a process whose files cannot be looked at is judged by the name that it uses.
func TestConfigOf(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "environ"), nul([]string{"HOME=/home/ci", "A=b=c"}))
	if err := os.Symlink("/srv/ci", filepath.Join(dir, "cwd")); err != nil {
		t.Fatal(err)
	}
	byDefault := "/home/ci/.gitlab-runner/config.toml"
	if os.Geteuid() == 0 {
		byDefault = "/etc/gitlab-runner/config.toml" // the folder that stands for the process is root's
	}
	for _, tc := range []struct{ args, want string }{
		{"run", byDefault},
		{"run -c /x/c.toml", "/x/c.toml"},
		{"run -config /x/c.toml", "/x/c.toml"},
		{"run --config=c.toml", "/srv/ci/c.toml"},
		{"run --config", byDefault},
		{"--log-level debug run --working-directory / -c=../c.toml", "/srv/c.toml"},
	} {
		got := configOf(dir, strings.Fields(tc.args))
		if got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.args, got, tc.want)
		}
		if !serves(dir, strings.Fields(tc.args), tc.want) {
			t.Errorf("%s: does not serve %s", tc.args, tc.want)
		}
	}
}

func nul(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return strings.Join(words, "\x00") + "\x00"
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFindUnit asks a systemctl of our own making.
func TestFindUnit(t *testing.T) {
	for state, want := range map[string]bool{"active": true, "activating": true, "inactive": false, "unknown": false} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "systemctl"), "#!/bin/sh\ntest \"$*\" = 'is-active gitlab-runner.service' && echo "+state+"\nexit 3\n")
		if err := os.Chmod(filepath.Join(dir, "systemctl"), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir)
		r, found := findUnit(t.Context())
		if found != want || found && r.String() != "gitlab-runner (unit gitlab-runner.service)" {
			t.Errorf("%s: got %v, %v", state, r, found)
		}
	}
	t.Setenv("PATH", "")
	if _, found := findUnit(t.Context()); found {
		t.Error("found a unit without systemctl")
	}
}

func TestHasCacheVolume(t *testing.T) {
	t.Parallel()
	for volume, want := range map[string]bool{
		"/cache": true, "/srv:/cache": true, "/srv:/cache/:ro": true, "/cache:/other": false, "/cache2": false,
	} {
		if got := hasCacheVolume([]string{"/x", volume}); got != want {
			t.Errorf("%s: %t, want %t", volume, got, want)
		}
	}
	if hasCacheVolume(nil) {
		t.Error("none: true")
	}
}
