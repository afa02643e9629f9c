package guard

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/slipway-ci/slipway/internal/mishap"
	"github.com/slipway-ci/slipway/internal/tarball"
	"github.com/slipway-ci/slipway/internal/wire"
)

// Denial is a refusal by a rule of docs/guard.md.
type Denial struct {
	Rule string // stable, for searching: "bind-outside"
	What string // what was asked, and why it is refused: "/etc is not a place of this job"
	Cure string // what to do instead
}

func (d *Denial) Error() string {
	s := fmt.Sprintf("denied by slipway [%s]: %s", d.Rule, d.What)
	if d.Cure != "" {
		s += "; " + d.Cure
	}
	return s
}

// deny makes a refusal.
func deny(rule, cure, format string, args ...any) *Denial {
	return &Denial{Rule: rule, What: fmt.Sprintf(format, args...), Cure: cure}
}

// apiError is an answer that is not a refusal, in the words of the Engine.
type apiError struct {
	Status  int
	Message string
}

func (e *apiError) Error() string { return e.Message }

func badRequest(format string, args ...any) error {
	return &apiError{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// The Engine's own words for what does not exist: what belongs to others must sound the same.
func noContainer(ref string) error {
	return &apiError{http.StatusNotFound, "No such container: " + ref}
}

func noExec(ref string) error {
	return &apiError{http.StatusNotFound, "No such exec instance: " + ref}
}

func noNetwork(ref string) error {
	return &apiError{http.StatusNotFound, fmt.Sprintf("network %s not found", ref)}
}

func noVolume(ref string) error {
	return &apiError{http.StatusNotFound, fmt.Sprintf("get %s: no such volume", ref)}
}

func noImage(ref string) error {
	if !strings.Contains(ref, "@") && !strings.Contains(ref[strings.LastIndex(ref, "/")+1:], ":") {
		ref += ":latest"
	}
	return &apiError{http.StatusNotFound, "No such image: " + ref}
}

// errClosing is the answer to a call whose job ends meanwhile.
var errClosing = &apiError{http.StatusServiceUnavailable, "slipway: the job has ended"}

// joinErrors keeps the first error's answer for the client: it is the one that the client asked for.
func joinErrors(err, second error) error {
	if second != nil {
		return fmt.Errorf("%w (and then: %v)", err, second)
	}
	return err
}

// statusOf is the HTTP status of an error, and what the client reads.
func statusOf(err error) (int, string) {
	var d *Denial
	var a *apiError
	var w *wire.Error
	var m *mishap.Error
	switch {
	case errors.As(err, &d):
		return http.StatusForbidden, d.Error()
	case errors.As(err, &w):
		return http.StatusBadRequest, w.Error()
	case errors.As(err, &a):
		return a.Status, a.Message
	case errors.As(err, &m):
		return http.StatusInternalServerError, "slipway: " + m.Error()
	}
	return http.StatusBadGateway, "slipway: " + err.Error()
}

// archiveError is what is wrong with a client's archive, as a refusal where a rule is about it.
func archiveError(err error) error {
	var e *tarball.Error
	var a *apiError
	switch {
	case !errors.As(err, &e):
		return err
	case errors.As(err, &a): // of the client's body
		return a
	case e.Rule == "":
		return badRequest("%s", e.What)
	}
	return &Denial{Rule: e.Rule, What: e.What, Cure: e.Cure}
}
