package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// logger makes the program log from the flags or, where they say nothing, from config.toml's log_level and
// log_format. The level can be changed later through the LevelVar.
func (a *app) logger(level, format string) (*slog.Logger, *slog.LevelVar, error) {
	var v slog.LevelVar
	if err := a.setLevel(&v, level); err != nil {
		return nil, nil, err
	}
	if a.global.logFormat != "" {
		format = a.global.logFormat
	}
	opts := &slog.HandlerOptions{Level: &v}
	switch format {
	case "", "runner":
		return slog.New(newLineHandler(a.stderr, &v, colours(a.stderr))), &v, nil
	case "text":
		return slog.New(slog.NewTextHandler(a.stderr, opts)), &v, nil
	case "json":
		return slog.New(slog.NewJSONHandler(a.stderr, opts)), &v, nil
	}
	return nil, nil, oneOf("log-format", format, []string{"runner", "text", "json"})
}

// setLevel puts the flags' level, else the one given, else info into v.
func (a *app) setLevel(v *slog.LevelVar, level string) error {
	switch {
	case a.global.debug:
		level = "debug"
	case a.global.logLevel != "":
		level = a.global.logLevel
	}
	// GitLab: the names of its log levels.
	switch strings.ToLower(level) {
	case "debug", "trace":
		v.Set(slog.LevelDebug)
	case "", "info":
		v.Set(slog.LevelInfo)
	case "warn", "warning":
		v.Set(slog.LevelWarn)
	case "error", "fatal", "panic":
		v.Set(slog.LevelError)
	default:
		return oneOf("log-level", level, []string{"debug", "info", "warn", "error"})
	}
	return nil
}

// colours reports whether w is a terminal that wants colours (see no-color.org).
func colours(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// lineHandler writes log_format = "runner": time, level, message, then the attributes as slog's text handler prints
// them, on one short line.
type lineHandler struct {
	out    io.Writer
	colour bool
	mu     *sync.Mutex   // held from the reset of attrs to the write
	attrs  *bytes.Buffer // where text writes
	text   slog.Handler  // formats the attributes alone
}

func newLineHandler(out io.Writer, level slog.Leveler, colour bool) *lineHandler {
	attrs := &bytes.Buffer{}
	text := slog.NewTextHandler(attrs, &slog.HandlerOptions{Level: level})
	return &lineHandler{out: out, colour: colour, mu: &sync.Mutex{}, attrs: attrs, text: text}
}

// Enabled reports whether the level is logged.
func (h *lineHandler) Enabled(ctx context.Context, l slog.Level) bool { return h.text.Enabled(ctx, l) }

// Handle writes one line.
func (h *lineHandler) Handle(ctx context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.attrs.Reset()
	bare := slog.NewRecord(time.Time{}, slog.LevelInfo, "", 0)
	r.Attrs(func(a slog.Attr) bool { bare.AddAttrs(a); return true })
	if err := h.text.Handle(ctx, bare); err != nil {
		return err
	}
	attrs := strings.TrimSpace(strings.TrimPrefix(h.attrs.String(), `level=INFO msg=""`))
	layout, dim, mark, reset := time.DateTime, "", "", ""
	if h.colour {
		layout, dim, mark, reset = time.TimeOnly, "\x1b[2m", levelColour(r.Level), "\x1b[0m"
	}
	line := fmt.Sprintf("%s%s%s %s%-5s%s %s", dim, r.Time.Format(layout), reset, mark, r.Level, reset, r.Message)
	if attrs != "" {
		line += fmt.Sprintf("  %s%s%s", dim, attrs, reset)
	}
	_, err := io.WriteString(h.out, line+"\n")
	return err
}

// WithAttrs returns a handler that adds the attributes to each line.
func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h2 := *h
	h2.text = h.text.WithAttrs(attrs)
	return &h2
}

// WithGroup returns a handler that puts the name before the keys that follow.
func (h *lineHandler) WithGroup(name string) slog.Handler {
	h2 := *h
	h2.text = h.text.WithGroup(name)
	return &h2
}

func levelColour(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "\x1b[1;31m"
	case l >= slog.LevelWarn:
		return "\x1b[33m"
	case l >= slog.LevelInfo:
		return "\x1b[32m"
	}
	return "\x1b[2m"
}
