package source

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-ci/slipway/internal/job"
)

// What can be wrong with a job's sources; errors.Is finds them below a *job.Error that carries a hint.
var (
	// ErrAuth: the server does not let the job token read the repository, or does not have it.
	ErrAuth = errors.New("the repository is not there for this job")
	// ErrUnreachable: the server did not answer as a Git server does.
	ErrUnreachable = errors.New("the Git server cannot be reached")
	// ErrNoCommit: the server no longer has the job's commit.
	ErrNoCommit = errors.New("the commit is not there any more")
	// ErrFlags: GIT_CLEAN_FLAGS holds something else than flags of git clean.
	ErrFlags = errors.New("not a flag that can be used here")
)

// PermissionError names a path in the workspace that a job left so that this process may not clean it: the runner is
// not root and the path belongs to somebody else. A container that runs as root can.
type PermissionError struct {
	Path    string   // on the host
	Folders []string // those of the workspace that jobs write to, on the host; one may be missing
	Err     error
}

func (e *PermissionError) Error() string {
	return fmt.Sprintf("clean workspace: %s is not ours to %v", e.Path, e.Err)
}

// Unwrap gives the system's error.
func (e *PermissionError) Unwrap() error { return e.Err }

// withPath turns the system's refusal into a PermissionError and adds the path to all other errors.
func withPath(verb, path string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return &PermissionError{Path: path, Err: fmt.Errorf("%s: %w", verb, err)}
	}
	return fmt.Errorf("%s %s: %w", verb, path, err)
}

// gitError is a Git command that ended with an error.
type gitError struct {
	command string // fetch, read-tree, ...
	stderr  string // without secrets
	err     error
}

func (e *gitError) Error() string {
	if line := e.fatal(); line != "" {
		return fmt.Sprintf("git %s: %s", e.command, line)
	}
	return fmt.Sprintf("git %s: %v", e.command, e.err)
}

func (e *gitError) Unwrap() error { return e.err }

// fatal is the line that says what went wrong: the last one that Git marked, else the last one.
func (e *gitError) fatal() string {
	last, marked := "", ""
	for line := range strings.Lines(e.stderr) {
		line = strings.TrimSpace(line)
		switch {
		case line == "":
		case strings.HasPrefix(line, "fatal: "), strings.HasPrefix(line, "error: "):
			marked = line
			fallthrough
		default:
			last = line
		}
	}
	if marked != "" {
		return marked
	}
	return last
}

func (e *gitError) says(texts ...string) bool {
	for _, t := range texts {
		if strings.Contains(e.stderr, t) {
			return true
		}
	}
	return false
}

// explainFetch tells whose fault a failed fetch is and what can be done.
//
// GitLab: what Git says ends a job as script_failure with exit code 1.
func explainFetch(err error, remote string) error {
	var e *gitError
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.says("Authentication failed", "could not read Username", "could not read Password", "Access denied",
		"returned error: 401", "returned error: 403"):
		return &job.Error{
			Reason: job.ScriptFailure, ExitCode: 1, Err: fmt.Errorf("fetch %s: %w: %w", remote, ErrAuth, e),
			Hint: "the job token may not read this repository: is CI/CD access to it allowed, and does the user who started the pipeline still have it?",
		}
	case e.says("not found", "returned error: 404", "does not appear to be a git repository"):
		return &job.Error{
			Reason: job.ScriptFailure, ExitCode: 1, Err: fmt.Errorf("fetch %s: %w: %w", remote, ErrAuth, e),
			Hint: "the server has no such repository, or does not show it to this job: was the project moved, or is its repository switched off?",
		}
	case e.says("SSL certificate problem", "server certificate verification failed", "certificate"):
		return &job.Error{
			Reason: job.ExternalDependencyFailure, Err: fmt.Errorf("fetch %s: %w: %w", remote, ErrUnreachable, e),
			Hint: "the machine does not trust the server's certificate: set tls-ca-file in config.toml",
		}
	case e.says("Could not resolve", "Failed to connect", "Couldn't connect", "Connection refused", "timed out",
		"returned error: 5", "RPC failed", "early EOF", "Connection reset", "unable to access", "hung up"):
		return &job.Error{
			Reason: job.ExternalDependencyFailure, Err: fmt.Errorf("fetch %s: %w: %w", remote, ErrUnreachable, e),
			Hint: "the runner's machine could not talk to the Git server; GET_SOURCES_ATTEMPTS: 3 makes a job try again",
		}
	case e.says("No space left on device"):
		return fmt.Errorf("fetch %s: the disk of the runner's state folder is full: %w", remote, e)
	}
	return fmt.Errorf("fetch %s: %w", remote, e)
}

// lackingObject is a line in which Git says so. Git quotes names of files, which are the choice of whoever wrote the repository, but
// seldom where one of its own lines begins: that takes a name with a line feed in it.
var lackingObject = regexp.MustCompile(`(?m)^(?:error|fatal): (?:` + strings.Join([]string{
	`unable to read sha1 file of `,
	`unable to read (?:tree |tree entries |blob object |[a-z]+ blob )?\(?[0-9a-f]{40}`,
	`failed to unpack tree object `,
	`pack has \d+ unresolved deltas?$`,
	`unresolved deltas left after unpacking$`,
	`\S+ did not send all necessary objects$`,
	`(?:pack has )?bad object `,
	`Could not read [0-9a-f]{40}`,
}, "|") + `)`)

// lacksObjects reports whether Git did not find what the mirror should have, as its refs or its other objects say.
func lacksObjects(err error) bool {
	var e *gitError
	return errors.As(err, &e) && lackingObject.MatchString(e.stderr)
}

// missingRef reports whether the server said that it does not have what was asked for.
func missingRef(err error) bool {
	var e *gitError
	return errors.As(err, &e) && e.says("couldn't find remote ref", "not our ref", "unadvertised object")
}

// noCommit is the error for a commit that no fetch brought.
func noCommit(sha string) error {
	return &job.Error{
		// GitLab: the sentence that users search for.
		Reason: job.ScriptFailure, ExitCode: 1, Err: fmt.Errorf("%w: fatal: reference is not a tree: %s", ErrNoCommit, sha),
		Hint: "the branch was probably force-pushed or deleted after the pipeline was made: run a new pipeline",
	}
}

// explainCheckout finds the path in Git's complaint when the system refused to touch something.
func explainCheckout(err error, dir string) error {
	var e *gitError
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.says("No space left on device"):
		return fmt.Errorf("check out the commit: the disk of the workspaces is full: %w", e)
	case e.says("Permission denied", "Operation not permitted"):
		return &PermissionError{Path: dir, Err: fmt.Errorf("change: %w: %w", unix.EACCES, e)}
	case e.says("invalid path", "File name too long", "unable to create file", "refusing to work with"):
		return &job.Error{
			Reason: job.ScriptFailure, ExitCode: 1, Err: fmt.Errorf("check out the commit: %w", e),
			Hint: "the commit holds a path that cannot be checked out on this machine",
		}
	}
	return fmt.Errorf("check out the commit: %w", e)
}
