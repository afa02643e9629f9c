package job

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// State is a job state as the runner reports it.
type State string

// The states that PUT /jobs/:id takes from a runner.
const (
	Running State = "running"
	Success State = "success"
	Failed  State = "failed"
)

// Reason says why a job failed, in GitLab's words.
type Reason string

// The failure reasons that a runner sends.
const (
	ScriptFailure             Reason = "script_failure"
	SystemFailure             Reason = "runner_system_failure"
	TimeoutFailure            Reason = "job_execution_timeout"
	ImagePullFailure          Reason = "image_pull_failure"
	UnknownFailure            Reason = "unknown_failure"
	ConfigurationError        Reason = "runner_configuration_error"
	ExternalDependencyFailure Reason = "runner_external_dependency_failure"
	RunnerInterrupted         Reason = "runner_interrupted"
	jobCanceled               Reason = "job_canceled"
)

// KnownTo maps a reason that the server does not list to one that it knows.
//
// GitLab: script failure, system failure and timeout are known to every server.
func (r Reason) KnownTo(server []Reason) Reason {
	switch {
	case slices.Contains([]Reason{ScriptFailure, SystemFailure, TimeoutFailure}, r), slices.Contains(server, r):
		return r
	case r == ImagePullFailure, r == ExternalDependencyFailure:
		return SystemFailure
	case r == ConfigurationError:
		return ScriptFailure
	}
	return UnknownFailure
}

// Why a job had to stop: the causes (context.Cause) of its context.
var (
	// ErrCanceling: a user canceled the job and the server lets after_script run.
	ErrCanceling = errors.New("canceled")
	// ErrAborted: the server no longer wants anything of the job; everything stops at once.
	ErrAborted = errors.New("aborted by the server")
	// ErrShutdown: the runner is told to end.
	ErrShutdown = errors.New("the runner was shut down")
)

// TimeoutError is the cause when a job took longer than it may.
type TimeoutError struct{ After time.Duration }

func (e *TimeoutError) Error() string {
	// GitLab: the sentence users search for, "1h0m0s seconds" and all.
	return fmt.Sprintf("execution took longer than %s seconds", e.After)
}

const timeoutHint = "`timeout:` of the job allows more, up to the limit on the runner's page in GitLab"

// Error is a failure whose reason is known where it happens: a script's exit code, a bad image name.
// A plain error is a failure of the runner or its machine.
type Error struct {
	Reason   Reason
	ExitCode int // of the script; 0 = none
	Err      error
	Hint     string // what the reader of the log can do, may be empty
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the underlying error.
func (e *Error) Unwrap() error { return e.Err }

// Result is how a job ended.
type Result struct {
	State    State
	Reason   Reason // of a failure
	ExitCode int
	Err      error // nil for a success
	Hint     string
	// Silent: the server gave the job up; there is nobody to report to.
	Silent bool
}

// ResultOf maps what a job's run returned, and why its context ended, to how the job is reported. It is the only
// place that does so. cause is context.Cause of the job's context, nil while that is alive.
func ResultOf(err, cause error) Result {
	var timeout *TimeoutError
	switch {
	case errors.Is(cause, ErrAborted):
		return Result{State: Failed, Reason: jobCanceled, Err: ErrAborted, Silent: true}
	case errors.Is(cause, ErrShutdown):
		return Result{State: Failed, Reason: RunnerInterrupted, Err: fmt.Errorf("aborted: %w", cause)}
	case errors.Is(err, ErrCanceling), errors.Is(cause, ErrCanceling):
		return Result{State: Failed, Reason: jobCanceled, Err: ErrCanceling}
	case errors.As(cause, &timeout):
		return Result{State: Failed, Reason: TimeoutFailure, Err: timeout, Hint: timeoutHint}
	case err == nil:
		return Result{State: Success}
	}
	r := Result{State: Failed, Reason: SystemFailure, Err: err}
	var e *Error
	if errors.As(err, &e) {
		r.Reason, r.ExitCode, r.Hint = e.Reason, e.ExitCode, e.Hint
	}
	return r
}
