package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

// ticking makes a script print something now and then, so that the runner hears soon that the job is canceled.
const ticking = "(while :; do echo tick; sleep 1; done) &"

func manyJobs(r *rig) { r.global = "concurrent = 20\n" }

// canceling starts jobs, cancels each when it says "ready", and returns them and their logs by name.
func (r *rig) canceling(graceful bool, specs map[string]*job.Spec) (jobs map[string]*coordinator.Job, logs map[string]string) {
	r.t.Helper()
	jobs = make(map[string]*coordinator.Job)
	for name, s := range specs {
		jobs[name] = r.enqueue(s)
	}
	for _, j := range jobs {
		r.until(j, "\nready\n")
		j.Cancel(graceful)
	}
	logs = make(map[string]string)
	for name, j := range jobs {
		o, log := r.end(j)
		if o.State != coordinator.Canceled {
			r.t.Errorf("%s: job ended as %+v:\n%s", name, o, log)
		}
		logs[name] = log
	}
	return jobs, logs
}

func TestCancelGracefully(t *testing.T) {
	t.Parallel()
	r := newRig(t, manyJobs)
	const left = `for p in /proc/[0-9]*/cmdline; do case "$(tr '\0' ' ' <$p 2>/dev/null)" in *stubborn*) echo left: $p;; esac; done; echo status $CI_JOB_STATUS`
	after := func(script ...string) *job.Spec { return withAfter(spec(script...), left) }
	events := r.events()
	jobs, logs := r.canceling(true, map[string]*job.Spec{
		"asleep":  after(ticking, "echo ready; sleep 300"),
		"tidying": after(ticking, `sh -c 'trap "sleep 1; echo tidied up; exit 0" TERM; echo ready; while :; do sleep 1; done'`),
		"init":    withImage(after(ticking, "echo ready; sleep 300"), r.image(withEntrypoint(tiny))),
		"trap":    after("trap 'echo trapped; exit 5' TERM", ticking, "echo ready; while :; do sleep 1; done"),

		"script ignores TERM": after("trap '' TERM", ticking, "echo ready; : stubborn; sleep 300"),
		"child ignores TERM":  after(ticking, `sh -c 'trap "" TERM; echo ready; : stubborn; while :; do sleep 1; done'`),
		"entrypoint hangs":    withImage(spec("echo never"), alpine, "/bin/sh", "-c", "echo ready; while :; do echo; sleep 1; done"),
	})
	for name, log := range logs {
		if name == "entrypoint hangs" {
			lacks(t, log, "\nnever\n")
			continue
		}
		wants(t, log, "Running after_script", "\nstatus canceled\n", "ERROR: Job failed: canceled")
		lacks(t, log, "\nleft:")
	}
	wants(t, logs["tidying"], "\ntidied up\n")
	wants(t, logs["trap"], "\ntrapped\n")
	// The Engine kills each container to remove it, and those before that whose processes do not end when they are asked to.
	for name, kills := range map[string]int{"asleep": 1, "init": 1, "trap": 1, "tidying": 1, "script ignores TERM": 2, "child ignores TERM": 2} {
		r.eventually("the container is removed", func() bool { return count(events, "destroy", jobs[name]) > 0 })
		if n := count(events, "kill", jobs[name]); n != kills {
			t.Errorf("%s: the container was killed %d times, want %d:\n%s", name, n, kills, events)
		}
	}
}

// TestAbort: a job that the server no longer knows leaves nothing, and nothing is said of it.
func TestAbort(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	j := r.enqueue(withAfter(spec(ticking, "trap '' TERM", "echo ready; sleep 300"), "echo never"))
	r.until(j, "\nready\n")
	j.Cancel(false)
	r.eventually("the container is removed", func() bool { return len(r.containers(j)) == 0 })
	r.eventually("the job is over", func() bool { return strings.Contains(r.log.String(), "job ended") })
	r.must(job.Success, spec("true")) // the slot is free
	for _, u := range j.Updates() {
		if u.State != job.Running {
			t.Errorf("the runner reported %+v", u)
		}
	}
	lacks(t, plain(j.Trace()), "Running after_script", "ERROR: Job failed")
}

// TestCancelPreparation: neither the registry nor Git answers.
func TestCancelPreparation(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.AddProject(coordinator.Project{Path: "group/slow", RepoDir: emptyRepository(t)})
	slowGit := func() *job.Spec {
		s := withAfter(spec("echo never"), "echo never")
		s.JobInfo.ProjectFullPath = "group/slow"
		s.GitInfo = job.Git{SHA: strings.Repeat("1", 40), Ref: "main", Refspecs: []string{"+refs/heads/main:refs/remotes/origin/main"}}
		return s
	}
	r.Inject(coordinator.Fault{Endpoint: coordinator.Git, Delay: 5 * time.Minute, Times: -1})
	slowPull := func() *job.Spec {
		return withAfter(withImage(spec("echo never"), deafRegistry(t)+"/x:1"), "echo never")
	}
	jobs := map[string]*coordinator.Job{
		"git": r.enqueue(slowGit()), "pull": r.enqueue(slowPull()),
		"git, abort": r.enqueue(slowGit()), "pull, abort": r.enqueue(slowPull()),
	}
	for name, j := range jobs {
		switch {
		case strings.HasPrefix(name, "git"):
			r.until(j, "Getting source from Git repository")
		default:
			r.until(j, "Pulling docker image")
		}
	}
	for name, j := range jobs {
		j.Cancel(!strings.HasSuffix(name, "abort"))
	}
	for name, j := range jobs {
		o, log := r.end(j) // Git would be answered after more than patience
		if o.State != coordinator.Canceled {
			t.Errorf("%s: job ended as %+v", name, o)
		}
		lacks(t, log, "\nnever\n", "step_script", "after_script")
		r.eventually("the container is removed", func() bool { return len(r.containers(j)) == 0 })
	}
	r.eventually("all jobs are over", func() bool { return strings.Count(r.log.String(), "job ended") == len(jobs) })
}

// TestShutdownAtAnyTime: wherever a job is when the runner is told to stop, nothing of it stays on the Engine.
func TestShutdownAtAnyTime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for i := range 5 {
		jobs := []*coordinator.Job{r.enqueue(spec("sleep 300")), r.enqueue(spec("true"))}
		if err := jobs[0].Started(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Duration(i) * 90 * time.Millisecond)
		r.stop()
		for _, j := range jobs {
			j.Cancel(false) // one may not have begun
		}
		left, err := r.engine.Containers(t.Context(), r.instance())
		if err != nil || len(left) > 0 {
			t.Fatalf("stopped after %d × 90 ms, left %v (%v)", i, left, err)
		}
		r.start()
	}
}
