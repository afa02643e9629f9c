package trace

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestStamper(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxLine)
	for _, tt := range []struct {
		name   string
		writes []string
		want   []string // stream, flag and text
	}{
		{"lines", []string{"a\nb\n"}, []string{"01O a", "01O b"}},
		{"open line", []string{"a", "b\n", "c"}, []string{"01O ab", "01O c"}},
		{"empty lines", []string{"\n\n"}, []string{"01O ", "01O "}},
		{"progress", []string{"1%\r", "2%\r", "done\nnext\n"}, []string{"01O 1%\r", "01O+2%\r", "01O+done", "01O next"}},
		{"progress after a line", []string{"a\n1%\rb", "c\n"}, []string{"01O a", "01O 1%\rb", "01O+c"}},
		{"carriage return in a whole line", []string{"1%\r2%\r\n"}, []string{"01O 1%\r2%\r"}},
		{"long line", []string{long + "yz\n"}, []string{"01O " + long, "01O+yz"}},
		{"long line in two writes", []string{long, "yz\n"}, []string{"01O " + long, "01O+yz"}},
		{"longest line", []string{long + "\n"}, []string{"01O " + long}},
		{"longest line in two writes", []string{long, "\n"}, []string{"01O " + long}},
		{"not UTF-8", []string{"\xff\x00\n"}, []string{"01O \xff\x00"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			s := &stamper{stream: stdoutStream, next: func(p []byte) { out.Write(p) }}
			for _, w := range tt.writes {
				s.write([]byte(w))
			}
			s.end()
			diff(t, "entries", tt.want, entries(t, out.String()))
		})
	}
}

// entries takes the times away.
func entries(t interface{ Fatalf(string, ...any) }, log string) []string {
	var out []string
	for line := range strings.Lines(log) {
		stamp, text, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if _, err := time.Parse(stampFormat, stamp); err != nil || !ok || !strings.HasSuffix(line, "\n") {
			t.Fatalf("no entry: %q", line)
		}
		out = append(out, text)
	}
	return out
}

// Whatever the writes, the text is kept, and no entry is longer than it may be.
func TestStamperKeepsTheText(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var out bytes.Buffer
		s := &stamper{stream: stdoutStream, next: func(p []byte) { out.Write(p) }}
		var in strings.Builder
		for range rapid.IntRange(0, 10).Draw(t, "writes") {
			p := rapid.StringOfN(rapid.RuneFrom([]rune("ab\r\n")), 0, 20, -1).Draw(t, "write")
			if rapid.Bool().Draw(t, "long") {
				p += strings.Repeat("x", rapid.IntRange(0, 3*maxLine).Draw(t, "length"))
			}
			in.WriteString(p)
			s.write([]byte(p))
		}
		s.end()
		var got strings.Builder
		for i, e := range entries(t, out.String()) {
			flag, text := e[3], e[4:]
			if len(text) > maxLine {
				t.Fatalf("an entry of %d bytes", len(text))
			}
			if i > 0 && flag == ' ' {
				got.WriteByte('\n')
			}
			got.WriteString(text)
		}
		if want := strings.TrimSuffix(in.String(), "\n"); got.String() != want {
			t.Fatalf("got %q, want %q", got.String(), want)
		}
	})
}

func stamped(o *Options, _ *server) { o.Timestamps, o.Sections = true, true }

// An open line is seen after a moment, and what follows continues it.
func TestOpenLineIsShown(t *testing.T) {
	bubble(t, stamped, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
		at(time.Second, s)
		write(t, tr.Stdout(), "Continue? ")
		at(6*time.Second, s)
		diff(t, "entries", []string{"01O Continue? "}, entries(t, s.text()))
		write(t, tr.Stdout(), "yes\n")
		write(t, tr.Stderr(), "half")
		tr.Flush()
		synctest.Wait()
		at(10*time.Second, s)
		diff(t, "entries", []string{"01O Continue? ", "01O+yes", "01E half"}, entries(t, s.text()))
		mustClose(t, tr, succeeded)
	})
}

func TestStreamsInterleaveByLines(t *testing.T) {
	bubble(t, stamped, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
		write(t, tr.Stdout(), "out")
		write(t, tr.Stderr(), "err")
		tr.Printf("runner")
		write(t, tr.Stdout(), "put\n")
		mustClose(t, tr, succeeded)
		diff(t, "entries", []string{
			"00O \x1b[0Krunner\x1b[0;m", "01O output", "01E err", "00O \x1b[32;1mJob succeeded\x1b[0;m",
		}, entries(t, s.text()))
	})
}
