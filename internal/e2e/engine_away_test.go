package e2e

import (
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

// TestEngineStops: the Engine goes away in mid-job, gently and by force. The job is not to blame, no job is taken
// while there is no Engine, and what the lost job left is removed when the Engine is back.
func TestEngineStops(t *testing.T) {
	t.Parallel()
	d := newDockerd(t)
	r := newRig(t, onEngine(d, d.engine()), concurrent(1))
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		lost, _ := r.waiting()
		queued := r.enqueue(spec("echo queued"))
		d.stop(sig)
		o, log := r.end(lost)
		r.ended(o, log, job.SystemFailure, 0)
		wants(t, log, "ERROR: Job failed (system failure): ", "Engine")
		r.logged("asking for jobs fails")
		if s := queued.State(); s != coordinator.Pending {
			t.Errorf("the queued job is %s while there is no Engine", s)
		}
		d.start()
		r.succeeds(queued)
		r.eventually("the lost job's container is gone", func() bool { return len(r.containers(lost)) == 0 })
		if sig == syscall.SIGTERM {
			once(t, r.log.String(), "asking for jobs fails")
		}
	}
}

// TestEngineComesLater: Slipway starts before its Engine does.
func TestEngineComesLater(t *testing.T) {
	t.Parallel()
	d := newDockerd(t)
	e := d.engine()
	d.stop(syscall.SIGTERM)
	r := newRig(t, onEngine(d, e))
	j := r.enqueue(spec("true"))
	r.logged("asking for jobs fails", "reach the Docker Engine at "+d.host()+": there is no such socket (is it running? else correct `host` in [runners.docker]")
	d.start()
	r.succeeds(j)

	// A job that a request brings which was made before the Engine went.
	r.stop()
	asked := make(chan struct{})
	goOn, release := r.gate()
	first := sync.OnceFunc(func() { close(asked) })
	r.Inject(coordinator.Fault{Endpoint: coordinator.RequestJob, Match: func(*http.Request) bool {
		first()
		<-goOn
		return false
	}})
	r.start()
	<-asked
	j = r.enqueue(spec("echo never"))
	d.stop(syscall.SIGTERM)
	release()
	o, log := r.end(j)
	r.ended(o, log, job.SystemFailure, 0)
	wants(t, log, "ERROR: Job failed (system failure): reach the Docker Engine at "+d.host()+": there is no such socket\n")
	d.start()
	r.succeeds(r.enqueue(spec("true")))
}

// TestEngineGoesBeforeTheStart: what fails because there is no Engine is not blamed on the image.
func TestEngineGoesBeforeTheStart(t *testing.T) {
	t.Parallel()
	d := newDockerd(t)
	r := newRig(t, onEngine(d, d.engine()))
	build := r.enqueue(withArtifacts(spec("echo made >file"), job.Artifact{Paths: []string{"file"}}))
	r.succeeds(build)
	goOn, release := r.gate()
	r.Inject(coordinator.Fault{Endpoint: coordinator.DownloadArtifacts, Match: func(*http.Request) bool { <-goOn; return false }})
	j := r.enqueue(needs(spec("echo never"), build))
	r.until(j, "Running on ")
	d.stop(syscall.SIGTERM)
	release()
	o, log := r.end(j)
	r.ended(o, log, job.SystemFailure, 0)
	wants(t, log, "ERROR: Job failed (system failure): the Docker Engine went away while the job ran", "Hint: run the job again")
	lacks(t, log, "\nnever\n", "entrypoint")
	d.start()
	r.leavesNothing()
}

// TestLostAnswer: a container that the Engine made, but whose making nobody heard of, does not stay.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	e := engine(t)
	dir, err := os.MkdirTemp("", "lossy-") // short, for the sake of the socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	var lost atomic.Bool
	engine := passing(e)
	engine.ModifyResponse = func(resp *http.Response) error {
		if strings.HasSuffix(resp.Request.URL.Path, "/containers/create") && !lost.Swap(true) {
			return errors.New("lost")
		}
		return nil
	}
	engine.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	srv := &http.Server{ReadHeaderTimeout: patience, Handler: engine}
	go func() { _ = srv.Serve(listener) }()
	t.Cleanup(func() { srv.Close() })
	r := newRig(t, dockerKeys("host = \"unix://"+filepath.Join(dir, "s")+"\""))
	o, log := r.run(spec("echo never"))
	r.ended(o, log, job.SystemFailure, 0)
	r.leavesNothing()
	r.must(job.Success, spec("true"))
}
