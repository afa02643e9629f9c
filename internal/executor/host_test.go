package executor

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestNumbersAreUsedAgain: the processes of another session that has the number of a job's dead shell are not the job's.
func TestNumbersAreUsedAgain(t *testing.T) {
	t.Parallel()
	sid := sessionOf(os.Getpid()) // whose leader stands for the other process
	if bornAt(sid) == "" || sid == os.Getpid() {
		t.Skip("this session has no other leader")
	}
	h := &hostPlace{mark: "a mark that nothing has", leaders: []leader{{pid: sid, born: bornAt(sid)}}}
	if !slices.Contains(h.processes(true), sid) {
		t.Error("a shell that lives is not among the job's processes")
	}
	h.leaders[0].born = "1"
	if found := h.processes(true); len(found) > 0 {
		t.Errorf("found %v", found)
	}
}

// TestNoTerminalAfterTheJob: one that is asked for while the job's processes are cleared away, or later, does not begin.
func TestNoTerminalAfterTheJob(t *testing.T) {
	t.Parallel()
	account, err := FindAccount("")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p := &plan{dir: dir, tempDir: dir, slot: Slot{Door: noDoor{}}}
	h := &hostPlace{account: account, shell: "sh", mark: "test-" + randomHex(8), log: slog.New(slog.DiscardHandler)}
	if err := h.writeTerminalScript(p); err != nil {
		t.Fatal(err)
	}
	typed := func(more string) (string, error) {
		in, out := io.Pipe()
		defer out.Close()
		go func() { _, _ = io.WriteString(out, more+"echo in $((6*7)); exit 3\n") }()
		var shown bytes.Buffer
		err := h.terminal(t.Context(), p, in, &shown)
		return shown.String(), err
	}
	if shown, err := typed(""); err != nil || !strings.Contains(shown, "in 42") {
		t.Errorf("before: %v; shown: %q", err, shown)
	}
	if len(h.leaders) > 0 {
		t.Errorf("nothing is left of the terminal, and its number is kept: %v", h.leaders)
	}
	if _, err := typed("env -i sleep 300 & disown; "); err != nil || len(h.processes(true)) != 1 {
		t.Errorf("%v; what is left of a terminal is not found: %v", err, h.processes(true))
	}
	h.clear(t.Context(), &session{})
	if left := h.processes(true); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
	if shown, err := typed(""); err == nil || shown != "" {
		t.Errorf("after: %v; shown: %q", err, shown)
	}
}

type noDoor struct{ Door }
