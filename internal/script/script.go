// Package script turns a job's commands into shell text, one text per stage. It is pure: the same input gives the
// same text, and nothing is run.
package script

import (
	"fmt"
	"strings"
)

// The colours of GitLab's job log.
const (
	green = "\x1b[32;1m"
	reset = "\x1b[0;m"
)

// Stage is one shell script of a job: it runs in a shell of its own.
type Stage struct {
	Dir       string      // where it starts
	Env       [][2]string // exported first: what no shell profile may change; name, value
	EnvFile   string      // KEY=VALUE lines that an earlier stage may have left, "" = none
	Export    [][2]string // environment that differs from the container's: name, value
	Notice    string      // a green line before the first command, may be empty
	Commands  []string    // as in .gitlab-ci.yml; one may have several lines
	Pre, Post string      // administrators' commands around them, in the same shell, not echoed
	XTrace    bool        // CI_DEBUG_TRACE
	Sections  bool        // FF_SCRIPT_SECTIONS: each command is a section of the log, shown in full
	CheckExit bool        // FF_ENABLE_BASH_EXIT_CODE_CHECK: look at each exit code, besides errexit
}

// Text is the script for a POSIX shell or bash. Each command is echoed before it runs, and the first that fails ends
// the script with its exit code.
//
// GitLab: pipefail where the shell has it, errexit, noclobber off. The check needs no grep: images from scratch
// have none.
func (s Stage) Text() string {
	var b strings.Builder
	b.WriteString("if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi\n")
	b.WriteString("set -o errexit\nset +o noclobber\n")
	b.WriteString(export(s.Env))
	b.WriteString(readEnv(s.EnvFile))
	b.WriteString(export(s.Export))
	if s.Dir != "" {
		b.WriteString("cd " + Quote(s.Dir) + "\n")
	}
	if s.Notice != "" {
		b.WriteString(echo(s.Notice))
	}
	if s.XTrace {
		b.WriteString("set -o xtrace\n")
	}
	b.WriteString(line(s.Pre))
	for i, c := range s.Commands {
		c = strings.TrimSpace(c)
		if c == "" {
			b.WriteString("printf '\\n'\n")
			continue
		}
		if s.Sections {
			b.WriteString(mark("start", i) + echo("$ "+c))
		} else {
			b.WriteString(echo("$ " + headline(c)))
		}
		b.WriteString(c + "\n")
		if s.CheckExit {
			b.WriteString("slipway_code=$?; if [ $slipway_code -ne 0 ]; then exit $slipway_code; fi\n")
		}
		if s.Sections {
			b.WriteString(mark("end", i))
		}
	}
	b.WriteString(line(s.Post))
	return b.String()
}

func export(list [][2]string) string {
	var b strings.Builder
	for _, e := range list {
		b.WriteString("export " + e[0] + "=" + Quote(e[1]) + "\n")
	}
	return b.String()
}

// readEnv exports what the job wrote to $GITLAB_ENV. A name that no shell takes would end the script, so it is left out.
func readEnv(path string) string {
	if path == "" {
		return ""
	}
	return "if [ -r " + Quote(path) + " ]; then\n" +
		"while read -r slipway_line; do\n" +
		`case ${slipway_line%%=*} in '' | [0-9]* | *[!A-Za-z0-9_]*) ;; *) export "$slipway_line" ;; esac` + "\n" +
		"done <" + Quote(path) + "\nfi\n"
}

// mark begins or ends the section of a command. An image may have no date.
func mark(which string, command int) string {
	return fmt.Sprintf("printf 'section_%s:%%s:section_script_step_%d\\r\\033[0K' \"$(date +%%s 2>/dev/null || echo 0)\"\n", which, command)
}

func line(s string) string {
	if strings.TrimSpace(s) == "" {
		return ""
	}
	return strings.TrimRight(s, "\n") + "\n"
}

// headline is what the log shows of a command.
//
// GitLab: of several lines only the first, with this remark.
func headline(command string) string {
	first, rest, _ := strings.Cut(command, "\n")
	if rest == "" {
		return first
	}
	return strings.TrimRight(first, "\r") + " # collapsed multi-line command"
}

func echo(line string) string { return "printf '%s\\n' " + Quote(green+line+reset) + "\n" }

// IsName reports whether a shell takes a variable of that name.
func IsName(name string) bool {
	return name != "" && (name[0] < '0' || name[0] > '9') && !strings.ContainsFunc(name, func(c rune) bool {
		return c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
	})
}

// Quote makes one shell word of s that stands for exactly s.
func Quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
