package guard

import (
	"fmt"
	"strconv"
	"strings"
)

// The versions of the Engine's API. Types are decoded and encoded as of maxAPI: a newer Engine is spoken to as if it
// were that old, because what its new fields mean is unknown here.
const (
	maxAPI       = "1.56"
	minClientAPI = "1.24"
)

// apiVersion is a version of the API, for comparison.
type apiVersion struct{ major, minor int }

func parseVersion(s string) (apiVersion, error) {
	major, minor, ok := strings.Cut(s, ".")
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	if !ok || err1 != nil || err2 != nil || s != fmt.Sprintf("%d.%d", a, b) {
		return apiVersion{}, badRequest("slipway: %q is no API version", s)
	}
	return apiVersion{a, b}, nil
}

func (v apiVersion) less(w apiVersion) bool {
	return v.major < w.major || v.major == w.major && v.minor < w.minor
}

func (v apiVersion) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

// atLeast reports whether the version is s or newer; s is a constant of ours.
func (v apiVersion) atLeast(s string) bool {
	w, err := parseVersion(s)
	return err == nil && !v.less(w)
}

// checkVersion refuses a client's version as the Engine does.
func checkVersion(s string, engine apiVersion) (apiVersion, error) {
	if s == "" {
		return engine, nil
	}
	v, err := parseVersion(s)
	if err != nil {
		return v, err
	}
	oldest, _ := parseVersion(minClientAPI)
	switch {
	case v.less(oldest):
		return v, badRequest("client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", s, minClientAPI)
	case engine.less(v):
		return v, badRequest("client version %s is too new. Maximum supported API version is %s", s, engine)
	}
	return v, nil
}
