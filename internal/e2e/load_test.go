package e2e

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/coordinator"
)

// TestManyJobs: more jobs than slots, of several projects; all succeed, in workspaces of their own, and leave nothing.
func TestManyJobs(t *testing.T) {
	t.Parallel()
	r := newRig(t, concurrent(8))
	var jobs []*coordinator.Job
	for i := range 20 {
		s := spec("test ! -e mine", "echo $CI_JOB_ID >mine", "sleep 0.2", "test $(cat mine) = $CI_JOB_ID", "rm mine", lines(200))
		s.JobInfo.ProjectID = int64(1 + i%3)
		jobs = append(jobs, r.enqueue(s))
	}
	for _, j := range jobs {
		numbered(t, r.succeeds(j), 200)
	}
	r.leavesNothing()
}

// leavesNothing fails the test if a container or a spool folder of the rig's jobs is still there.
func (r *rig) leavesNothing() {
	r.t.Helper()
	r.eventually("nothing is left of the jobs", func() bool {
		list, err := r.engine.Containers(r.t.Context(), r.instance())
		return err == nil && len(list) == 0 && len(r.spool()) == 0
	})
}

// TestTwoServers: one process serves the runners of two GitLabs. That one of them is away is nothing to the other.
func TestTwoServers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := coordinator.New(coordinator.Options{LongPoll: 10 * time.Second, UpdateInterval: time.Second})
	server := httptest.NewServer(other)
	t.Cleanup(func() { other.Close(); server.Close() })
	added := other.AddRunner(coordinator.Runner{Tags: []string{"dockerd"}})
	text := r.readOwn()
	section := text[strings.Index(text, "[[runners]]"):]
	section = strings.NewReplacer(r.token.Reveal(), added.Token.Reveal(), r.url, server.URL, `"rig"`, `"other"`).Replace(section)
	r.writeOwn(text + section)
	r.signal(syscall.SIGHUP)

	script := []string{"echo $CI_SERVER_URL", "test ! -e mine", "touch mine", "sleep 0.5", "rm mine", lines(200)}
	for range 3 {
		// The same project and job on both: nothing of theirs may meet.
		a, b := r.enqueue(spec(script...)), other.Enqueue(spec(script...), "dockerd")
		log := r.succeeds(a)
		wants(t, log, "\n"+r.url+"\n")
		numbered(t, log, 200)
		log = r.succeeds(b)
		wants(t, log, "\n"+server.URL+"\n")
		numbered(t, log, 200)
	}
	r.vanish()
	log := r.succeeds(other.Enqueue(spec(script...), "dockerd"))
	numbered(t, log, 200)
	r.comeBack()
	r.succeeds(r.enqueue(spec(script...)))
	r.leavesNothing()
}

// TestNothingLeaks: thirty jobs leave neither files nor goroutines in the process; what is held open between jobs
// (requests for jobs, idle connections) is bounded.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	run := func(n int) (files, goroutines int) {
		t.Helper()
		var jobs []*coordinator.Job
		for range n {
			jobs = append(jobs, r.enqueue(spec("true")))
		}
		for _, j := range jobs {
			r.succeeds(j)
		}
		r.leavesNothing()
		return r.settled()
	}
	files, goroutines := run(5)
	moreFiles, moreGoroutines := run(20)
	if moreFiles >= files+15 || moreGoroutines >= goroutines+25 {
		t.Errorf("files: %d, then %d; goroutines: %d, then %d", files, moreFiles, goroutines, moreGoroutines)
	}
	r.staysSmall()
}

// settled returns how many files and goroutines the process has when both have come to rest.
func (r *rig) settled() (files, goroutines int) {
	r.t.Helper()
	steady := 0
	r.eventually("the process comes to rest", func() bool {
		f, g := r.openFiles(), r.goroutines()
		if f == files && g == goroutines {
			steady++
		} else {
			steady = 0
		}
		files, goroutines = f, g
		return steady == 20
	})
	return files, goroutines
}

func (r *rig) openFiles() int {
	r.t.Helper()
	list, err := os.ReadDir(filepath.Join("/proc", fmt.Sprint(r.process.Process.Pid), "fd"))
	if err != nil {
		r.t.Fatal(err)
	}
	return len(list)
}

// goroutines asks the process how many it has.
func (r *rig) goroutines() (n int) {
	r.t.Helper()
	const mark = "goroutines: "
	before := strings.Count(r.log.String(), mark)
	r.signal(syscall.SIGUSR1)
	r.eventually("the process tells its goroutines", func() bool {
		log := r.log.String()
		if strings.Count(log, mark) == before {
			return false
		}
		_, err := fmt.Sscan(log[strings.LastIndex(log, mark)+len(mark):], &n)
		return err == nil
	})
	return n
}
