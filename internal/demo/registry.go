package demo

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Registry is an image registry on the loopback that asks for a user and a password. Its images live in memory, as
// long as it does.
type Registry struct {
	// Host is its address as image names begin with it: "127.0.0.1:40123".
	Host string
	// User and Password are the only ones that it takes.
	User, Password string

	server *http.Server
	served chan error

	mu       sync.Mutex
	requests Requests
}

// Requests counts what a registry was asked for.
type Requests struct {
	Manifests int   // manifests read: one for each look at an image, pulled or already there
	Layers    int   // blobs read: layers and image configs
	Pushes    int   // manifests written
	Refused   int   // requests without the right password
	Sent      int64 // bytes of answers
}

// sentWriter counts what a client is sent.
type sentWriter struct {
	http.ResponseWriter
	r *Registry
}

func (w *sentWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	w.r.requests.Sent += int64(n)
	return n, err
}

// StartRegistry serves an empty registry on a free port of 127.0.0.1, where every Engine of this machine speaks
// plain HTTP.
func StartRegistry() (*Registry, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open a port for the registry: %w", err)
	}
	r := &Registry{
		Host:     listener.Addr().String(),
		User:     "demo",
		Password: rand.Text(),
		served:   make(chan error, 1),
	}
	quiet := log.New(io.Discard, "", 0)
	r.server = &http.Server{
		Handler:           r.guard(registry.New(registry.Logger(quiet))),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          quiet,
	}
	go func() { r.served <- r.server.Serve(listener) }()
	return r, nil
}

// guard lets only the registry's user in and counts.
func (r *Registry) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		user, password, _ := req.BasicAuth()
		allowed := subtle.ConstantTimeCompare([]byte(user+":"+password), []byte(r.User+":"+r.Password)) == 1
		r.count(req, allowed)
		if !allowed {
			w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
			w.Header().Set("WWW-Authenticate", `Basic realm="slipway demo"`)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
			return
		}
		next.ServeHTTP(&sentWriter{w, r}, req)
	})
}

func (r *Registry) count(req *http.Request, allowed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	manifest := strings.Contains(req.URL.Path, "/manifests/")
	switch {
	case !allowed:
		r.requests.Refused++
	case manifest && req.Method == http.MethodPut:
		r.requests.Pushes++
	case manifest && (req.Method == http.MethodGet || req.Method == http.MethodHead):
		r.requests.Manifests++
	case strings.Contains(req.URL.Path, "/blobs/sha256:") && req.Method == http.MethodGet:
		r.requests.Layers++
	}
}

// Requests are the counts so far.
func (r *Registry) Requests() Requests {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests
}

// Push makes the image of a recipe and puts it into the registry under a name without host: "alpine:latest".
func (r *Registry) Push(ctx context.Context, image string, recipe Recipe) error {
	tag, err := name.NewTag(r.Host + "/" + image)
	if err != nil {
		return fmt.Errorf("read the image name %q: %w", image, err)
	}
	img, err := recipe.image()
	if err != nil {
		return fmt.Errorf("make the image %s: %w", image, err)
	}
	login := remote.WithAuth(&authn.Basic{Username: r.User, Password: r.Password})
	if err := remote.Write(tag, img, login, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("push the image %s: %w", image, err)
	}
	return nil
}

// Close stops the registry and forgets its images.
func (r *Registry) Close() error {
	err := r.server.Close()
	if served := <-r.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	if err != nil {
		return fmt.Errorf("stop the registry: %w", err)
	}
	return nil
}
