package guard

import (
	"context"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/sourcepolicy"
	policy "github.com/moby/buildkit/sourcepolicy/pb"

	"github.com/slipway-ci/slipway/internal/dockerfile"
	"github.com/slipway-ci/slipway/internal/ledger"
)

// TestSourcePolicy asks BuildKit's own engine what the guard's policies let a build take.
func TestSourcePolicy(t *testing.T) {
	t.Parallel()
	newest, err := parseVersion(maxAPI)
	if err != nil {
		t.Fatal(err)
	}
	g := &Guard{policy: Policy{Scope: "mine"}, engine: &upstream{version: newest}}
	c := &call{Guard: g}
	id := strings.Repeat("a1", 32)
	engine := sourcepolicy.NewEngine([]*policy.Policy{c.sourcePolicy(), c.urlPolicy(&checkedFile{remotes: []dockerfile.Remote{{URL: "https://example.com/a.tar"}}})})
	for source, allowed := range map[string]bool{
		"local://context":                                          true,
		"docker-image://" + c.aliasPrefix() + id:                   true,
		"docker-image://" + c.aliasPrefix() + id + "@sha256:" + id: true,
		"https://example.com/a.tar":                                true,

		"https://example.com/a.tar.gz":                              false,
		"http://example.com/a.tar":                                  false,
		"https://evil.com/https://example.com/a.tar":                false,
		"http://127.0.0.1/":                                         false,
		"git://example.com/x.git":                                   false,
		"docker-image://docker.io/library/x":                        false,
		"docker-image://docker.io/library/x@sha256:" + id:           false,
		"docker-image://" + ledger.TemporaryName("other", "id", id): false,
		"docker-image://" + c.aliasPrefix() + id[:63]:               false,
		"docker-image://" + c.aliasPrefix() + id + "x":              false,
		"docker-image://evil.com/" + c.aliasPrefix() + id:           false,
		"oci-layout://x@sha256:" + id:                               false,
		"docker-image+blob://x@sha256:" + id:                        false,
	} {
		_, err := engine.Evaluate(context.Background(), &pb.SourceOp{Identifier: source})
		if (err == nil) != allowed {
			t.Errorf("%s: %v", source, err)
		}
	}
}
