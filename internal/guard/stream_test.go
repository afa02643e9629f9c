package guard

import (
	"strings"
	"testing"
)

func TestExec(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.sleeper("db")
	for range 5 {
		if out := r.docker("exec", "db", "echo", "said"); strings.TrimSpace(out) != "said" {
			t.Errorf("%q", out)
		}
	}
}
