package executor

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/slipway-ci/slipway/internal/script"
)

// TestMarks: however the stream is cut, the mark is found once with its code, and nothing else is changed.
func TestMarks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOf(rapid.SampledFrom([]rune("ab\x01\nslipway:0" + "é")))
		before, after := text.Draw(t, "before"), text.Draw(t, "after")
		code := rapid.IntRange(0, 255).Draw(t, "code")
		mark := script.Mark("abc0")
		if strings.Contains(before, mark) {
			t.Skip()
		}
		stream := []byte(before + fmt.Sprintf("%s%d\n", mark, code) + after)
		var out bytes.Buffer
		w := &markWriter{out: &out}
		found := []int{}
		w.await(mark, func(c int) { found = append(found, c) })
		for len(stream) > 0 {
			n := rapid.IntRange(1, len(stream)).Draw(t, "n")
			if got, err := w.Write(stream[:n]); got != n || err != nil {
				t.Fatalf("Write = %d, %v", got, err)
			}
			stream = stream[n:]
		}
		w.flush()
		if len(found) != 1 || found[0] != code {
			t.Errorf("found %v, want [%d]", found, code)
		}
		if out.String() != before+after {
			t.Errorf("passed on %q, want %q", out.String(), before+after)
		}
	})
}
