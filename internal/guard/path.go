package guard

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// The versions of the Engine's API. Types are decoded and encoded as of maxAPI: a newer Engine is spoken to as if it
// were that old, because what its new fields mean is unknown here.
const (
	maxAPI       = "1.56"
	minClientAPI = "1.24"
)

// cleanPath takes a request's path only in the one spelling that the Engine needs no cleaning for, and cuts the version
// off. The Engine itself decodes %2f before it routes, redirects unclean paths, and takes /v01.41.
func cleanPath(r *http.Request) (version, path string, err error) {
	raw := r.URL.EscapedPath()
	switch {
	case r.Method == http.MethodConnect, r.URL.IsAbs(), r.URL.Host != "", !strings.HasPrefix(raw, "/"):
		return "", "", badRequest("slipway: the request's target is not a path")
	case len(raw) > 4096:
		return "", "", badRequest("slipway: the path is too long")
	}
	path, err = url.PathUnescape(raw)
	if err != nil {
		return "", "", badRequest("slipway: the path cannot be decoded")
	}
	// Docker's clients escape what is special in names; nothing that divides or leaves a path may be among it.
	for i := 0; i+2 < len(raw); i++ {
		if raw[i] != '%' {
			continue
		}
		switch strings.ToLower(raw[i+1 : i+3]) {
		case "2f", "2e", "5c", "25", "3f", "23":
			return "", "", badRequest("slipway: the path has an escaped separator")
		}
	}
	for _, c := range []byte(path) {
		if c <= ' ' || c == '\\' || c >= 0x7f {
			return "", "", badRequest("slipway: the path has a character that no name of the Engine has")
		}
	}
	segments := strings.Split(path[1:], "/")
	for i, s := range segments {
		if s == "." || s == ".." || s == "" && (i < len(segments)-1 || len(segments) == 1) {
			return "", "", badRequest("slipway: the path is not clean")
		}
	}
	if v, ok := strings.CutPrefix(segments[0], "v"); ok && looksLikeVersion(v) {
		if len(segments) == 1 {
			return "", "", &apiError{http.StatusNotFound, "page not found"}
		}
		return v, "/" + strings.Join(segments[1:], "/"), nil
	}
	return "", path, nil
}

func looksLikeVersion(s string) bool {
	return s != "" && strings.Trim(s, "0123456789.") == "" && s[0] != '.'
}

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
