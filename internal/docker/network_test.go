package docker

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestNetworkMTU: where the operator gave the Engine's own bridge an MTU, networks for jobs have it too, unless another one is
// asked for.
func TestNetworkMTU(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		bridge, want string
		o            NetworkOptions
	}{
		{"1500", "", NetworkOptions{}},
		{"1450", "1450", NetworkOptions{}},
		{"1450", "1300", NetworkOptions{MTU: 1300, IPv6: true}},
		{"", "", NetworkOptions{}},
	} {
		var got struct {
			Options    map[string]string
			EnableIPv6 *bool
		}
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Api-Version", "1.41")
			w.Header().Set("Content-Type", "application/json")
			switch {
			case strings.HasSuffix(r.URL.Path, "/networks/create"):
				if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
					t.Error(err)
				}
				w.WriteHeader(http.StatusCreated)
				_, _ = w.Write([]byte(`{"Id":"made"}`))
			case strings.HasSuffix(r.URL.Path, "/networks/bridge") && c.bridge == "": // "bridge": "none" in daemon.json
				w.WriteHeader(http.StatusNotFound)
				_, _ = w.Write([]byte(`{"message":"network bridge not found"}`))
			case strings.HasSuffix(r.URL.Path, "/networks/bridge"):
				_ = json.NewEncoder(w).Encode(map[string]any{"Name": "bridge", "Options": map[string]string{driverMTU: c.bridge}})
			}
		}))
		t.Cleanup(srv.Close)
		e, err := Connect(t.Context(), Options{Host: strings.Replace(srv.URL, "http", "tcp", 1)})
		if err != nil {
			t.Fatal(err)
		}
		id, err := e.CreateNetwork(t.Context(), "x", nil, c.o)
		if err != nil || id != "made" || got.Options[driverMTU] != c.want || got.EnableIPv6 == nil || *got.EnableIPv6 != c.o.IPv6 {
			t.Errorf("%+v: made %q of %+v: %v", c, id, got, err)
		}
	}
}
