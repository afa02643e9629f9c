package wire

import (
	"net/http"
	"net/url"
	"strings"
)

// Path takes a request's path only in the one spelling that the Engine needs no cleaning for, and cuts the version
// off. The Engine itself decodes %2f before it routes, redirects unclean paths, and takes /v01.41. The path is empty if there
// is nothing but a version.
func Path(r *http.Request) (version, path string, err error) {
	raw := r.URL.EscapedPath()
	switch {
	case r.Method == http.MethodConnect, r.URL.IsAbs(), r.URL.Host != "", !strings.HasPrefix(raw, "/"):
		return "", "", Bad("slipway: the request's target is not a path")
	case len(raw) > 4096:
		return "", "", Bad("slipway: the path is too long")
	}
	path, err = url.PathUnescape(raw)
	if err != nil {
		return "", "", Bad("slipway: the path cannot be decoded")
	}
	// Docker's clients escape what is special in names; nothing that divides or leaves a path may be among it.
	for i := 0; i+2 < len(raw); i++ {
		if raw[i] != '%' {
			continue
		}
		switch strings.ToLower(raw[i+1 : i+3]) {
		case "2f", "2e", "5c", "25", "3f", "23":
			return "", "", Bad("slipway: the path has an escaped separator")
		}
	}
	for _, c := range []byte(path) {
		if c <= ' ' || c == '\\' || c >= 0x7f {
			return "", "", Bad("slipway: the path has a character that no name of the Engine has")
		}
	}
	segments := strings.Split(path[1:], "/")
	for i, s := range segments {
		if s == "." || s == ".." || s == "" && (i < len(segments)-1 || len(segments) == 1) {
			return "", "", Bad("slipway: the path is not clean")
		}
	}
	if v, ok := strings.CutPrefix(segments[0], "v"); ok && looksLikeVersion(v) {
		if len(segments) == 1 {
			return v, "", nil
		}
		return v, "/" + strings.Join(segments[1:], "/"), nil
	}
	return "", path, nil
}

func looksLikeVersion(s string) bool {
	return s != "" && strings.Trim(s, "0123456789.") == "" && s[0] != '.'
}
