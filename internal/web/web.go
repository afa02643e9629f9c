// Package web is what a running Slipway shows over HTTP: metrics under the names of GitLab's runner, whether it is
// ready, its jobs. It counts what others tell it, and knows nothing of how jobs are run or servers are asked.
package web

import (
	"fmt"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Handler serves /metrics, /health/ready, /debug/jobs/list, /debug/process/state and /debug/pprof/, to whoever gets at it: there is nothing
// secret in it, but nothing for strangers either.
//
// GitLab: the same paths, also without authentication.
func (m *Monitor) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /health/ready", m.serveReady)
	mux.HandleFunc("GET /debug/jobs/list", m.serveJobs)
	mux.HandleFunc("GET /debug/process/state", m.serveProcess)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// Server is an HTTP server with the time limits of one that strangers may reach. There is none on writing: a profile
// takes as long as its reader asks for.
func Server(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
}

// serveReady says whether jobs are asked for.
//
// GitLab: 200 "ready", or 503, until the jobs of boot_verify have succeeded.
func (m *Monitor) serveReady(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if !m.now().Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "not ready")
		return
	}
	fmt.Fprintln(w, "ready")
}

// serveJobs lists the jobs, a line each.
//
// GitLab: the text form that it calls version 2.
func (m *Monitor) serveJobs(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("X-List-Version", "2")
	w.Header().Set("Content-Type", "text/plain")
	for _, j := range m.Jobs() {
		fmt.Fprintf(w, "url=%s state=%s stage=%s executor_stage=%s duration=%s\n", j.URL, j.State, j.Stage, j.ExecutorStage, j.Duration)
	}
}
