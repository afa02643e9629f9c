package script

import "fmt"

// The places where images keep a shell, in the order in which GitLab's runner looks.
var (
	bashes = []string{"/usr/local/bin/bash", "/usr/bin/bash", "/bin/bash"}
	shells = []string{"/usr/local/bin/sh", "/usr/bin/sh", "/bin/sh", "/busybox/sh"}
)

// Shell is what the container runs (under the image's entrypoint): it becomes the best shell of the image, which
// then reads from stdin what Run feeds to it. shell "sh" leaves bash out.
func Shell(shell string) []string {
	return []string{"sh", "-c", detect(shell, "exec %s")}
}

// detect is an if chain over the places of a shell, with the command for the first that is there.
func detect(shell, command string) string {
	places := shells
	if shell != "sh" {
		places = append(append([]string{}, bashes...), shells...)
	}
	text := ""
	for _, p := range places {
		text += fmt.Sprintf("if [ -x %s ]; then "+command+"; el", p, p)
	}
	return text + "se echo 'slipway: error: the image has no shell' >&2; exit 1; fi"
}

// Run is one line for the shell that reads stdin: it runs the script at path in a new shell with nothing on stdin,
// then prints Mark with its exit code on both streams, so that the reader of each knows that it has seen all.
func Run(shell, path, nonce string) string {
	return detect(shell, "%s "+Quote(path)+" </dev/null") + report(nonce)
}

// report prints the marks.
func report(nonce string) string {
	return "; slipway_code=$?; " +
		"printf '\\001slipway:%s:%d\\n' " + nonce + " $slipway_code; " +
		"printf '\\001slipway:%s:%d\\n' " + nonce + " $slipway_code >&2\n"
}

// Mark is how the line that Run prints begins; the exit code and a newline follow.
func Mark(nonce string) string { return "\x01slipway:" + nonce + ":" }

// Terminate is a command that asks every process of the container, but the first and itself, to end, and waits until
// all of them have. Dead ones that nobody has buried do not count. Shells that people type at do not heed TERM, and end when they are
// hung up.
func Terminate() []string { return []string{"sh", "-c", terminate} }

const terminate = `kill -TERM -1 2>/dev/null
for stat in /proc/[0-9]*/stat; do
	read -r line 2>/dev/null <"$stat" || continue
	set -- ${line##*) }
	case "$5 $stat" in "0 "* | *" /proc/1/stat") ;; *" /proc/$4/stat") kill -HUP "$4" 2>/dev/null ;; esac
done
left() {
	for stat in /proc/[0-9]*/stat; do
		case $stat in /proc/1/stat | "/proc/$$/stat") continue ;; esac
		read -r line 2>/dev/null <"$stat" || continue
		case ${line##*) } in Z* | X*) ;; *) return 0 ;; esac
	done
	return 1
}
while left; do sleep 0.1 2>/dev/null || sleep 1; done
`

// RunInside is Run for the login shell of a machine: the script runs in a copy of that shell, with the functions and settings of the
// user's profile, and when it exits nothing of the user's logout files runs.
func RunInside(path, nonce string) string {
	return "( . " + Quote(path) + " ) </dev/null" + report(nonce)
}
