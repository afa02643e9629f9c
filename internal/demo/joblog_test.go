package demo

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestJobLog(t *testing.T) {
	t.Parallel()
	const at = "2026-11-23T15:16:00.123456Z "
	for _, tc := range []struct {
		name, log, plain, colour string
	}{
		{
			"stamps", at + "00O \x1b[0KRunning with slipway\x1b[0;m\n" + at + "01O hello\n",
			"Running with slipway\nhello\n", "\x1b[0KRunning with slipway\x1b[0;m\nhello\n",
		},
		{"continued", at + "01O one\n" + at + "01O+ two\n" + at + "01O three\n", "one two\nthree\n", "one two\nthree\n"},
		{"continued after another stream", at + "01O one\n" + at + "01E err\n" + at + "01O+ two\n", "one\nerr\n two\n", "one\nerr\n two\n"},
		{
			"sections",
			at + "00O section_start:1700000000:prepare[collapsed=true]\r\x1b[0K\x1b[36;1mPreparing\x1b[0;m\n" +
				at + "00O section_end:1700000001:prepare\r\x1b[0K\n" +
				at + "00O section_end:1:a\r\x1b[0Ksection_start:2:b\r\x1b[0KNext\n",
			"Preparing\nNext\n", "\x1b[36;1mPreparing\x1b[0;m\nNext\n",
		},
		{"no stamps", "one\ntwo", "one\ntwo\n", "one\ntwo\n"},
		{"empty lines stay", at + "01O \n\n" + at + "01O x\n", "\n\nx\n", "\n\nx\n"},
		{"carriage returns", at + "01O 10%\r20%\r\n", "10%\r20%\n", "10%\r20%\n"},
		{"not a stamp", at + "01X x\n", at + "01X x\n", at + "01X x\n"},
		{"nothing", "", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.plain, passed(t, false, []byte(tc.log))); diff != "" {
				t.Errorf("plain (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.colour, passed(t, true, []byte(tc.log))); diff != "" {
				t.Errorf("in colour (-want +got):\n%s", diff)
			}
			rapid.Check(t, func(r *rapid.T) {
				var pieces [][]byte
				for rest := []byte(tc.log); len(rest) > 0; {
					n := min(rapid.IntRange(1, 60).Draw(r, "piece"), len(rest))
					pieces, rest = append(pieces, rest[:n]), rest[n:]
				}
				if got := passed(t, false, pieces...); got != tc.plain {
					r.Fatalf("in pieces: %q", got)
				}
			})
		})
	}
}

func passed(t *testing.T, inColour bool, pieces ...[]byte) string {
	t.Helper()
	var out bytes.Buffer
	l := &jobLog{out: &out, colour: inColour}
	for _, p := range pieces {
		if n, err := l.Write(p); n != len(p) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
