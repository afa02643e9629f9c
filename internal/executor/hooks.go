package executor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/script"
	"github.com/slipway-ci/slipway/internal/source"
	"github.com/slipway-ci/slipway/internal/trace"
)

// hook is what the job itself wants to be done at a time.
func (p *plan) hook(name string) (commands []string) {
	for _, h := range p.spec.Hooks {
		if h.Name == name {
			commands = append(commands, h.Script...)
		}
	}
	return commands
}

// hookStage is a hook's commands as a stage; nil if there are none.
//
// GitLab: hooks do not run if no sources are fetched.
func (s Settings) hookStage(p *plan, name, dir, pre string, commands []string) *stage {
	if st := p.source.request.Strategy; len(commands) == 0 || st == source.None || st == source.Empty {
		return nil
	}
	text := script.Stage{
		Env: p.exports, EnvFile: envFile(p.tempDir), Dir: dir, Pre: pre, Commands: commands,
		XTrace: s.debugTrace(p), CheckExit: s.flag("FF_ENABLE_BASH_EXIT_CODE_CHECK", p.vars),
	}
	return &stage{name: name, headline: "Executing " + name, first: true, text: func(string) string { return text.Text() }}
}

// postHook is what the operator and the job want to be done once the sources are there.
//
// GitLab: the operator's commands come last.
func (s Settings) postHook(p *plan) []stage {
	commands := p.hook(stageHook)
	if s.PostGetSources != "" {
		commands = append(commands, s.PostGetSources)
	}
	if st := s.hookStage(p, stageHook, p.dir, "", commands); st != nil {
		return []stage{*st}
	}
	return nil
}

// preHook is what the operator and the job want to be done before the sources are fetched.
//
// GitLab: the operator's commands come first, and none begins in the project's folder. They run in a container with a Git; the job's
// image may have none, and what is said to it would have no effect on the fetch.
func (s Settings) preHook(p *plan) *stage {
	var commands []string
	if s.PreGetSources != "" {
		commands = append(commands, s.PreGetSources)
	}
	commands = append(commands, p.hook(stagePreHook)...)
	pre := withoutGit
	if s.Account != nil {
		pre = "cd 2>/dev/null || :"
	}
	return s.hookStage(p, stagePreHook, "", pre, commands)
}

// withoutGit lets settings for a Git pass that is not there.
const withoutGit = `command -v git >/dev/null 2>&1 || git() {
if [ "$1" = config ]; then echo "git: not in this image, nothing is set" >&2; else echo "git: not found" >&2; return 127; fi
}`

// gitSettings is part of commands that may be meant for the fetch.
const gitSettings = "git config"

// beforeSources runs what is to be done before the sources are fetched, and ends all that it has left running.
func (e *Executor) beforeSources(jobCtx, ctx context.Context, tr *trace.Trace, p *plan, w *source.Workspace, s *session, sv *services) (err error) {
	defer tr.Flush()
	err = e.evenIfGone(ctx, tr, p, w, s, sv, func() error { return e.stage(jobCtx, ctx, p, w, s, *p.preHook, "") })
	if err == nil && strings.Contains(p.preHook.text(""), gitSettings) {
		tr.Printf("The runner fetches the sources: Git settings of %s hold for what the job does itself.", stagePreHook)
	}
	if jobCtx.Err() != nil {
		return context.Cause(jobCtx) // all is about to be cleared
	}
	if err == nil { // else, and for what it is not enough, a container is made for that: closeStandIns
		if kept := s.place.readable(ctx, s, p.sourceDirs()...); kept != nil {
			e.Log.Debug("files that a hook made as root are not handed over by its container", "error", kept)
		}
	}
	if ended := s.end(ctx); err == nil {
		err = ended
	}
	var failed *job.Error
	if !errors.As(err, &failed) || failed.Reason != job.ScriptFailure {
		return err
	}
	hint := failed.Hint
	if failed.ExitCode == notFound && e.Settings.Account == nil {
		hint = "it runs in the job's own image, which may lack what GitLab's helper image has"
	}
	return &job.Error{Reason: failed.Reason, ExitCode: failed.ExitCode, Err: fmt.Errorf("%s: %w", stagePreHook, err), Hint: hint}
}

// notFound is a shell's exit code for a command that is not there.
const notFound = 127
