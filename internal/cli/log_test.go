package cli

import (
	"bytes"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/job"
)

func TestLineHandler(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 23, 12, 4, 5, 0, time.UTC)
	for _, tc := range []struct {
		name   string
		colour bool
		with   func(slog.Handler) slog.Handler
		level  slog.Level
		msg    string
		attrs  []slog.Attr
		want   string
	}{
		{name: "plain", msg: "starting", want: "2026-11-23 12:04:05 INFO  starting\n"},
		{
			name: "attributes", level: slog.LevelWarn, msg: "slow",
			attrs: []slog.Attr{slog.Int("job", 7), slog.String("name", "a b"), slog.Any("token", job.Secret("x")), {}},
			want:  "2026-11-23 12:04:05 WARN  slow  job=7 name=\"a b\" token=[MASKED]\n",
		},
		{
			name: "keys like the parts of the line", msg: "m",
			attrs: []slog.Attr{slog.String("msg", "mine"), slog.String("level", "mine"), slog.String("time", "mine")},
			want:  "2026-11-23 12:04:05 INFO  m  msg=mine level=mine time=mine\n",
		},
		{
			name: "with", level: slog.LevelError, msg: "m", attrs: []slog.Attr{slog.Int("b", 2)},
			with: func(h slog.Handler) slog.Handler {
				return h.WithAttrs([]slog.Attr{slog.Int("a", 1)}).WithGroup("g")
			},
			want: "2026-11-23 12:04:05 ERROR m  a=1 g.b=2\n",
		},
		{
			name: "control characters stay out of the terminal", msg: "m", attrs: []slog.Attr{slog.String("a", "\x1b[2J")},
			want: "2026-11-23 12:04:05 INFO  m  a=\"\\x1b[2J\"\n",
		},
		{
			name: "colour", colour: true, msg: "m", attrs: []slog.Attr{slog.Int("a", 1)},
			want: "\x1b[2m12:04:05\x1b[0m \x1b[32mINFO \x1b[0m m  \x1b[2ma=1\x1b[0m\n",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			var h slog.Handler = newLineHandler(&out, slog.LevelInfo, tc.colour)
			if tc.with != nil {
				h = tc.with(h)
			}
			r := slog.NewRecord(at, tc.level, tc.msg, 0)
			r.AddAttrs(tc.attrs...)
			if err := h.Handle(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, out.String()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if h.Enabled(t.Context(), slog.LevelDebug) {
				t.Error("debug is on")
			}
		})
	}
}
