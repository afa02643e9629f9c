package ledger

import (
	"testing"

	"github.com/distribution/reference"
)

func named(t testing.TB, s string) reference.NamedTagged {
	t.Helper()
	n, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		t.Skip(err)
	}
	tagged, ok := reference.TagNameOnly(n).(reference.NamedTagged)
	if !ok {
		t.Skip("no tag")
	}
	return tagged
}

func TestOwnName(t *testing.T) {
	t.Parallel()
	for written, want := range map[string]string{
		"app":                               "slipway.local/s1/docker.io/library/app:latest",
		"group/app:1.0":                     "slipway.local/s1/docker.io/group/app:1.0",
		"registry.example.com/a/b:x":        "slipway.local/s1/registry.example.com/a/b:x",
		"registry.example.com:5000/a/b:x":   "slipway.local/s1/registry.example.com__5000/a/b:x",
		"localhost/app":                     "slipway.local/s1/localhost/app:latest",
		"Registry.example.com/app":          "slipway.local/s1/x_52656769737472792e6578616d706c652e636f6d/app:latest",
		"[::1]:5000/app":                    "slipway.local/s1/x_5b3a3a315d3a35303030/app:latest",
		"slipway.local/s2/docker.io/a/b:x":  "slipway.local/s1/slipway.local/s2/docker.io/a/b:x",
		"slipway.local/s1/from/00:x":        "slipway.local/s1/slipway.local/s1/from/00:x",
		"docker.io/library/app:with_CAPS.1": "slipway.local/s1/docker.io/library/app:with_CAPS.1",
	} {
		if got := OwnName("s1", named(t, written)); got != want {
			t.Errorf("%s: %s, want %s", written, got, want)
		}
	}
}

// FuzzOwnName: different names never share one at the Engine, and what comes out is a name that the Engine takes.
func FuzzOwnName(f *testing.F) {
	f.Add("app", "docker.io/library/app")
	f.Add("a.b:1/x", "a.b__1/x")
	f.Add("x:5000/a", "x_3a/a")
	f.Add("X/a", "x_58/a")
	f.Add("localhost:1/h_a", "localhost/1/h_a")
	f.Fuzz(func(t *testing.T, x, y string) {
		a, b := named(t, x), named(t, y)
		for _, scopes := range [][2]string{{"s1", "s1"}, {"s1", "s2"}} {
			p, q := OwnName(scopes[0], a), OwnName(scopes[1], b)
			if same := scopes[0] == scopes[1] && a.String() == b.String(); same != (p == q) {
				t.Errorf("%s and %s become %s and %s", a, b, p, q)
			}
		}
		got := OwnName("s1", a)
		n, err := reference.ParseNormalizedNamed(got)
		if err != nil || n.String() != got {
			t.Errorf("%s becomes %s: %v", a, got, err)
		}
		if reference.Domain(n) != Host {
			t.Errorf("%s becomes %s", a, got)
		}
	})
}
