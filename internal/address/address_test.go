package address

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync/atomic"
	"testing"
)

// TestAsk: a redirect to where nobody may go is not followed.
func TestAsk(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer inside.Close()
	outside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/r" {
			http.Redirect(w, r, inside.URL, http.StatusFound)
		}
	}))
	defer outside.Close()
	public := netip.MustParseAddrPort(outside.Listener.Addr().String())
	allow := func(at netip.AddrPort) error {
		if at != public {
			return &InternalError{at.String()}
		}
		return nil
	}
	if err := ask(t.Context(), outside.URL+"/f", allow); err != nil {
		t.Error(err)
	}
	var internal *InternalError
	if err := ask(t.Context(), outside.URL+"/r", allow); !errors.As(err, &internal) {
		t.Error(err)
	}
	if asked.Load() != 0 {
		t.Error("the redirect was followed")
	}
}

func TestPublic(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"127.0.0.1": false, "10.1.2.3": false, "172.17.0.1": false, "192.168.1.1": false, "169.254.169.254": false, "100.64.0.1": false,
		"0.0.0.0": false, "::1": false, "fe80::1": false, "fd00::1": false, "::ffff:10.0.0.1": false, "64:ff9b::a00:1": false, "2002:a00:1::": false,
		"8.8.8.8": true, "2606:4700::1": true,
	} {
		if err := public(netip.AddrPortFrom(netip.MustParseAddr(address), 80)); (err == nil) != want {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestInternal(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"localhost": true, "registry.localhost": true, "127.0.0.1": true, "127.1": true, "0x7f.1": true, "2130706433": true, "1.2.3.0x4": true,
		"::1": true, "::ffff:8.8.8.8": true, "64:ff9b::7f00:1": true, "2002:7f00:1::": true, "0.0.0.0": true, "169.254.169.254": true, "fd00:ec2::254": true,
		"8.8.8.8": false, "203.0.113.7": false, "2606:4700::1": false,
	} {
		if got := Internal(t.Context(), name); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
