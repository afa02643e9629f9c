package mishap

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// TestCatch: a panic is an error, and is told of with the place where it happened.
func TestCatch(t *testing.T) {
	var out bytes.Buffer
	log, before := slog.New(slog.NewTextHandler(&out, nil)), slog.Default()
	slog.SetDefault(log)
	t.Cleanup(func() { slog.SetDefault(before) })
	for _, to := range []*slog.Logger{log, nil} {
		out.Reset()
		do := func(f func() error) (err error) {
			defer Catch(to, "a test", &err)
			return f()
		}
		if err := do(func() error { return errors.ErrUnsupported }); err != errors.ErrUnsupported || out.Len() > 0 {
			t.Error(err, out.String())
		}
		var list []int
		var caught *Error
		err := do(func() error {
			list[out.Len()]++
			return nil
		})
		if !errors.As(err, &caught) || strings.Contains(err.Error(), "index") {
			t.Error(err)
		}
		for _, want := range []string{`call="a test"`, "index out of range", "mishap_test.go"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("there is no %q in: %s", want, out.String())
			}
		}
	}
}
