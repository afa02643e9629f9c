package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/job"
)

// soakKind is a kind of job of TestSoak, and how it ends where nothing disturbs it.
type soakKind struct {
	name string
	spec func(n int) *job.Spec
	want coordinator.Outcome
	// act is done once the job has printed "ready"; nil = nothing.
	act func(j *coordinator.Job)
	log string // what its log has
}

func soakKinds() []soakKind {
	success := coordinator.Outcome{State: job.Success}
	canceled := coordinator.Outcome{State: coordinator.Canceled}
	service := func(s *job.Spec) *job.Spec {
		s.Services = []job.Service{{Image: job.Image{Name: alpine, Entrypoint: []string{"sleep"}}, Command: []string{"300"}, Alias: "db"}}
		return s
	}
	return []soakKind{
		{name: "output", spec: func(int) *job.Spec { return spec(lines(500)) }, want: success, log: "\nline 500\n"},
		{name: "failure", spec: func(n int) *job.Spec { return spec("exit " + strconv.Itoa(1+n%200)) }, want: coordinator.Outcome{State: job.Failed, FailureReason: job.ScriptFailure}},
		{name: "timeout", spec: func(int) *job.Spec {
			return withAfter(withVariables(spec("sleep 300"), "RUNNER_SCRIPT_TIMEOUT", "1s"), "echo cleaned")
		}, want: coordinator.Outcome{State: job.Failed, FailureReason: job.TimeoutFailure}},
		{name: "cancel", spec: func(int) *job.Spec { return withAfter(spec("echo ready", ticking, "sleep 300"), "echo cleaned") }, want: canceled, act: func(j *coordinator.Job) { j.Cancel(true) }},
		{name: "abort", spec: func(int) *job.Spec { return spec("echo ready", ticking, "sleep 300") }, want: canceled, act: func(j *coordinator.Job) { j.Cancel(false) }},
		{name: "service", spec: func(int) *job.Spec {
			return service(spec("ping -c 1 -W 5 db >/dev/null || nslookup db || grep db /etc/hosts; echo done"))
		}, want: success, log: "\ndone\n"},
		{name: "containers", spec: func(n int) *job.Spec {
			return withDocker("docker network create net; docker volume create data", fmt.Sprintf("docker run -d --name web --network net -v data:/data -v $PWD:/app -p 8080:80 %s sleep 300", alpine), "docker exec web ls /app", "echo done")
		}, want: success, log: "\ndone\n"},
		{name: "killed containers", spec: func(int) *job.Spec {
			return withDocker(fmt.Sprintf("docker run -d --name web %s sleep 300", alpine), "echo ready", ticking, "docker wait web")
		}, want: canceled, act: func(j *coordinator.Job) { j.Cancel(false) }},
		{name: "artifacts", spec: func(n int) *job.Spec {
			s := spec("mkdir -p out; seq 1000 >out/a", "echo done")
			s.Artifacts = []job.Artifact{{Paths: []string{"out"}, Name: "a", Format: "zip", Type: "archive"}}
			s.Cache = []job.Cache{{Key: strconv.Itoa(n % 5), Paths: []string{"out"}, Policy: "pull-push", When: "on_success"}}
			return s
		}, want: success, log: "\ndone\n"},
	}
}

// TestSoak runs many jobs, of which some fail or are canceled, while Slipway is killed and stopped and its Engine is restarted. In the
// end every job has the state that it must have, and nothing is left. SLIPWAY_SOAK is how many jobs; see make soak.
func TestSoak(t *testing.T) {
	count, _ := strconv.Atoi(os.Getenv("SLIPWAY_SOAK"))
	if count == 0 {
		t.Skip("it takes long: make soak")
	}
	d := newDockerd(t)
	engine := d.engine()
	if err := load(engine, dockerClient, demo.DockerClient()); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, onEngine(d, engine), concurrent(8), withSocket())
	kinds := soakKinds()
	type running struct {
		*coordinator.Job
		kind soakKind
	}
	var jobs []running
	for n := range count {
		k := kinds[rand.IntN(len(kinds))]
		s := k.spec(n)
		s.JobInfo.Name = k.name
		j := running{r.enqueue(s), k}
		jobs = append(jobs, j)
		if k.act != nil {
			go func() {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				w := &watcher{text: "\nready\n", found: cancel}
				if _ = j.Follow(ctx, w); w.seen {
					k.act(j.Job)
				}
			}()
		}
	}
	over := func() (n int) {
		for _, j := range jobs {
			if s := j.State(); s != coordinator.Pending && s != job.Running && s != coordinator.Canceling {
				n++
			}
		}
		return n
	}
	type span struct{ from, to time.Time }
	var disturbed []span
	disturb := []struct {
		name string
		do   func()
	}{
		{"kill slipway", func() { r.kill(); r.start() }},
		{"restart the Engine", func() { d.stop(syscall.SIGTERM); d.start() }},
		{"terminate slipway", func() { r.stop(); r.start() }},
		{"kill the Engine", func() { d.stop(syscall.SIGKILL); d.start() }},
		{"reload", func() { r.signal(syscall.SIGHUP) }},
		{"kill both", func() { r.kill(); d.stop(syscall.SIGKILL); d.start(); r.start() }},
		{"drain slipway", func() {
			r.signal(syscall.SIGQUIT)
			if code := r.exit(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			r.start()
		}},
	}
	began, next := time.Now(), 0
	every := max(count/16, 5)
	for last := -1; ; await(t, 200*time.Millisecond) {
		n := over()
		if n != last {
			last = n
			t.Logf("%s: %d of %d jobs are over", time.Since(began).Round(time.Second), n, count)
		}
		if n == count {
			break
		}
		if n >= (next+1)*every && n < count-2*every { // the last ones are left in peace
			what := disturb[next%len(disturb)]
			next++
			t.Log(what.name)
			s := span{from: time.Now()}
			what.do()
			s.to = time.Now()
			disturbed = append(disturbed, s)
		}
	}
	for _, j := range jobs {
		o, log := r.end(j.Job)
		times := j.Times()
		harmed := false
		for _, s := range disturbed {
			harmed = harmed || times.HandedOut.Before(s.to.Add(5*time.Second)) && times.Final.After(s.from)
		}
		o.ExitCode, o.AllowFailure = 0, false
		switch {
		case o == j.kind.want && strings.Contains(log, j.kind.log):
		case harmed && o.State == job.Failed && (o.FailureReason == job.SystemFailure || o.FailureReason == job.UnknownFailure): // what interrupted is to this server
		case harmed && o.FailureReason == job.ScriptFailure && strings.HasSuffix(j.kind.name, "containers"): // its docker met no Engine
		default:
			t.Errorf("%s: job %d ended as %+v (disturbed: %t)\n%s", j.kind.name, j.ID(), o, harmed, log)
		}
	}
	r.leavesNothing()
	files, goroutines := r.settled()
	r.stop()
	r.start()
	for range 8 {
		r.succeeds(r.enqueue(withDocker(fmt.Sprintf("docker run --rm %s true", alpine))))
	}
	freshFiles, freshGoroutines := r.settled()
	t.Logf("%s; %d files and %d goroutines, of a fresh process %d and %d", time.Since(began).Round(time.Second), files, goroutines, freshFiles, freshGoroutines)
	if files >= freshFiles+15 || goroutines >= freshGoroutines+25 {
		t.Errorf("files: %d, of a fresh process %d; goroutines: %d, of a fresh one %d", files, freshFiles, goroutines, freshGoroutines)
	}
	r.cleanAfter()
	for _, what := range [][]string{{"ps", "--all", "--quiet"}, {"volume", "ls", "--quiet"}, {"network", "ls", "--format", "{{.Name}}"}} {
		out, err := exec.Command("docker", append([]string{"--host", d.host()}, what...)...).CombinedOutput()
		left := strings.NewReplacer("bridge\n", "", "host\n", "", "none\n", "", "slipway\n", "").Replace(string(out))
		if err != nil || left != "" {
			t.Errorf("docker %s: %v\n%s", what[0], err, left)
		}
	}
	for _, what := range []string{"panic:", "DATA RACE"} {
		if log := r.log.String(); strings.Contains(log, what) {
			i := strings.Index(log, what)
			t.Errorf("slipway's log: …%s…", log[max(0, i-200):min(len(log), i+500)])
		}
	}
}
