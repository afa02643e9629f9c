package script

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"mvdan.cc/sh/v3/syntax"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files anew")

var stages = []struct {
	name  string
	stage Stage
	out   string // what it prints, colours removed
	code  int
}{
	{"plain", Stage{Commands: []string{"echo hi", "true"}}, "$ echo hi\nhi\n$ true\n", 0},
	{"multiline", Stage{Commands: []string{"if true; then\n  echo 'a b'\nfi\n"}}, "$ if true; then # collapsed multi-line command\na b\n", 0},
	{"sections", Stage{Sections: true, Commands: []string{"echo one", "if true; then\n  echo two\nfi"}}, "", 0},
	{"check", Stage{CheckExit: true, Commands: []string{"set +o errexit", "sh -c 'exit 7'", "echo never"}}, "$ set +o errexit\n$ sh -c 'exit 7'\n", 7},
	{"no check", Stage{Commands: []string{"set +o errexit", "sh -c 'exit 7'", "echo goes on"}}, "$ set +o errexit\n$ sh -c 'exit 7'\n$ echo goes on\ngoes on\n", 0},
	{"exit", Stage{Commands: []string{"exit 3", "echo never"}}, "$ exit 3\n", 3},
	{"errexit", Stage{Commands: []string{"false", "echo never"}}, "$ false\n", 1},
	{"heredoc", Stage{Commands: []string{"cat <<EOF\n$((1+1)) it's\nEOF"}}, "$ cat <<EOF # collapsed multi-line command\n2 it's\n", 0},
	{"quotes", Stage{Commands: []string{`echo "it's" 'a  b' \$HOME`}}, `$ echo "it's" 'a  b' \$HOME` + "\n" + `it's a  b $HOME` + "\n", 0},
	{"shared state", Stage{Commands: []string{"x=1; cd /", "echo $x $PWD"}}, "$ x=1; cd /\n$ echo $x $PWD\n1 /\n", 0},
	{"stdin is empty", Stage{Commands: []string{"cat", "echo end"}}, "$ cat\n$ echo end\nend\n", 0},
	{"after", Stage{
		Dir: "/usr", Export: [][2]string{{"CI_JOB_STATUS", "success"}}, Notice: "Running after script...",
		Pre: "echo pre", Post: "echo post\n", Commands: []string{"", "echo $CI_JOB_STATUS in $PWD"},
	}, "Running after script...\npre\n\n$ echo $CI_JOB_STATUS in $PWD\nsuccess in /usr\npost\n", 0},
	{"syntax error", Stage{Commands: []string{"echo one", "echo 'unclosed"}}, "", 2},
}

func TestStages(t *testing.T) {
	t.Parallel()
	for _, c := range stages {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text := c.stage.Text()
			golden(t, c.name, text)
			if c.name != "syntax error" {
				if _, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(strings.NewReader(text), c.name); err != nil {
					t.Errorf("does not parse: %v", err)
				}
			}
			for _, shell := range realShells(t) {
				out, code := run(t, shell, text)
				if code != c.code {
					t.Errorf("%v: exit code %d, want %d\n%s", shell, code, c.code, out)
				}
				if c.out != "" && out != c.out {
					t.Errorf("%v prints\n%s", shell, cmp.Diff(c.out, out))
				}
			}
		})
	}
}

// TestSections: each command has a section of the log, and is there in full.
func TestSections(t *testing.T) {
	t.Parallel()
	text := Stage{Sections: true, Commands: []string{"echo one", "if true; then\n  echo two\nfi"}}.Text()
	for _, shell := range realShells(t) {
		out, code := run(t, shell, text)
		want := regexp.MustCompile(`^section_start:\d+:section_script_step_0\r\x1b\[0K\$ echo one\none\nsection_end:\d+:section_script_step_0\r\x1b\[0K` +
			`section_start:\d+:section_script_step_1\r\x1b\[0K\$ if true; then\n  echo two\nfi\ntwo\nsection_end:\d+:section_script_step_1\r\x1b\[0K$`)
		if code != 0 || !want.MatchString(out) {
			t.Errorf("%v: exit code %d: %q", shell, code, out)
		}
	}
}

// TestRun holds the line that starts a stage: in a real shell that reads stdin, as in the container.
func TestRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "it's a script")
	if err := os.WriteFile(path, []byte("echo out; echo err >&2; cat; exit 7"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, shell := range realShells(t) {
		cmd := exec.Command(shell[0], shell[1:]...)
		cmd.Stdin = strings.NewReader(Run("", path, "abc") + Run("sh", path, "def") + "exit 9\n")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != 9 {
			t.Errorf("%v: exit code %d, want 9: %s", shell, code, stderr.String())
		}
		for stream, want := range map[string]string{
			stdout.String(): "out\n" + Mark("abc") + "7\nout\n" + Mark("def") + "7\n",
			stderr.String(): "err\n" + Mark("abc") + "7\nerr\n" + Mark("def") + "7\n",
		} {
			if stream != want {
				t.Errorf("%v:\n%s", shell, cmp.Diff(want, stream))
			}
		}
	}
}

func TestShell(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"", "bash", "sh"} {
		c := Shell(shell)
		cmd := exec.Command(c[0], c[1:]...)
		cmd.Stdin = strings.NewReader("echo bash=${BASH_VERSION:+yes}\n")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v", c, err)
		}
		if got, want := string(out) == "bash=yes\n", shell != "sh" && hasBash(); got != want {
			t.Errorf("Shell(%q) ran %q", shell, out)
		}
	}
}

func TestQuote(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Filter(func(s string) bool { return !strings.ContainsRune(s, 0) }).Draw(t, "s")
		file, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(strings.NewReader("printf %s "+Quote(s)), "")
		if err != nil {
			t.Fatal(err)
		}
		call, ok := file.Stmts[0].Cmd.(*syntax.CallExpr)
		if !ok || len(file.Stmts) != 1 || len(call.Args) != 3 {
			t.Fatalf("Quote(%q) is not one word", s)
		}
	})
	for _, s := range []string{"", "'", "a'b\n\\$`\"", "\x1b[0;m"} {
		out, err := exec.Command("sh", "-c", "printf %s "+Quote(s)).Output()
		if err != nil || string(out) != s {
			t.Errorf("Quote(%q) stands for %q (%v)", s, out, err)
		}
	}
}

func realShells(t *testing.T) [][]string {
	t.Helper()
	var out [][]string
	for _, s := range [][]string{{"sh"}, {"bash"}, {"busybox", "sh"}} {
		if _, err := exec.LookPath(s[0]); err == nil {
			out = append(out, s)
		}
	}
	return out
}

func hasBash() bool {
	_, err := exec.LookPath("bash")
	return err == nil
}

func run(t *testing.T, shell []string, text string) (string, int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(shell[0], append(shell[1:], path)...)
	out, _ := cmd.Output()
	plain := strings.NewReplacer(green, "", reset, "").Replace(string(out))
	return plain, cmd.ProcessState.ExitCode()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".sh")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("differs from %s (-update writes it anew):\n%s", path, diff)
	}
}
