package guard

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestVariants: what an image does in a build can differ between its platforms. The Engines of the tests have one
// platform per image, so this one is a stand-in.
func TestVariants(t *testing.T) {
	t.Parallel()
	type m = map[string]any
	platform := func(arch string) m { return m{"os": "linux", "architecture": arch} }
	image := func(arch string, triggers ...string) m {
		return m{"Id": "sha256:x", "Os": "linux", "Architecture": arch, "Config": m{"Env": []string{"A=" + arch}, "OnBuild": triggers}}
	}
	manifest := func(arch string, available bool, kind string) m {
		return m{"Available": available, "Kind": kind, "ImageData": m{"Platform": platform(arch)}}
	}
	part := func(arch, variant string, available bool) m {
		p := platform(arch)
		p["variant"] = variant
		out := m{"Available": available, "Kind": "unknown", "Descriptor": m{"platform": p}}
		if available {
			out["Kind"], out["ImageData"] = "image", m{"Platform": platform(arch)}
		}
		return out
	}
	for name, c := range map[string]struct {
		first     m
		manifests []m
		others    map[string]m
		want      string // the variable, "" = none is for the platform
		rule      string
	}{
		"one":         {first: image("arm64", "x"), manifests: []m{manifest("arm64", true, "image"), manifest("arm64", true, "attestation")}, want: "A=arm64"},
		"another one": {first: image("amd64"), manifests: []m{manifest("amd64", true, "image"), part("arm64", "", false)}},
		// What is not there when the guard looks can be pulled before the Engine looks.
		"others are missing":      {first: image("arm64"), manifests: []m{part("arm64", "v8", true), part("amd64", "", false), part("arm", "v7", false), part("arm64", "v9", false), part("unknown", "", false)}, want: "A=arm64"},
		"a closer one is missing": {first: image("arm64"), manifests: []m{part("arm64", "v9", true), part("arm64", "", false)}},
		"its like is missing":     {first: image("arm64"), manifests: []m{part("arm64", "", true), part("arm64", "v8", false)}},
		"who knows what":          {first: image("arm64"), manifests: []m{part("arm64", "", true), {"Kind": "unknown"}}},
		"two":                     {first: image("amd64"), manifests: []m{manifest("amd64", true, "image"), manifest("arm64", true, "image")}, want: "A=arm64"},
		"not alike":               {first: image("amd64"), manifests: []m{manifest("amd64", true, "image"), manifest("arm64", true, "image")}, others: map[string]m{"arm64": image("arm64", "COPY --from=victim / /")}, rule: "build-onbuild"},
		"one is twice":            {first: image("arm64"), manifests: []m{manifest("arm64", true, "image"), manifest("arm64", true, "image")}, rule: "build-onbuild"},
	} {
		engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var p imagePlatform
			doc := m{}
			switch asked := r.URL.Query().Get("platform"); {
			case r.URL.Path == "/version":
				doc = m{"Version": "29.0.0", "ApiVersion": "1.50"}
			case r.URL.Query().Get("manifests") == "1":
				doc["Manifests"] = c.manifests
			case json.Unmarshal([]byte(asked), &p) == nil && c.others[p.Architecture] != nil:
				doc = c.others[p.Architecture]
			default:
				doc = image(p.Architecture)
			}
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(doc)
		}))
		up, err := newUpstream(t.Context(), func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", engine.Listener.Addr().String())
		})
		if err != nil {
			t.Fatal(err)
		}
		g := &Guard{engine: up, log: slog.New(slog.DiscardHandler), objects: newObjects(Policy{})}
		data, _ := json.Marshal(c.first)
		var doc imageDoc
		if err := json.Unmarshal(data, &doc); err != nil {
			t.Fatal(err)
		}
		got, found, err := (&call{Guard: g, ctx: t.Context()}).variant(t.Context(), doc, "linux/arm64")
		var denied *Denial
		switch {
		case c.rule != "":
			if !errors.As(err, &denied) || denied.Rule != c.rule {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil, found != (c.want != ""), found && got.Config.Env[0] != c.want:
			t.Errorf("%s: %v %v %v", name, got, found, err)
		}
		up.close()
		engine.Close()
	}
}
