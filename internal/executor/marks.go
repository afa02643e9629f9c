package executor

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"sync"

	"github.com/slipway-ci/slipway/internal/mishap"
)

// markWriter passes a stream of the container on to the job log and takes the marks out that say that a stage has
// ended (script.Run). A mark carries a nonce of its stage, so that nothing a job prints by chance is taken for one.
type markWriter struct {
	out    io.Writer
	broken func(err error) // told of a defect, after which the stream is not passed on

	mu    sync.Mutex
	mark  []byte // what is awaited; nil = nothing
	found func(code int)
	held  []byte // the beginning of what may become a mark
}

// longestCode is the longest exit code with its newline.
const longestCode = 4

// await makes the writer look for a mark; found is called once, after all that came before the mark is written.
func (w *markWriter) await(mark string, found func(code int)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mark, w.found = []byte(mark), found
}

// Write never fails on account of the mark; the log's own errors are passed on. It has a goroutine for itself.
func (w *markWriter) Write(p []byte) (n int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer func() {
		if e := (*mishap.Error)(nil); errors.As(err, &e) {
			w.broken(err)
		}
	}()
	defer mishap.Catch(nil, "what a job prints", &err)
	if len(w.held) == 0 && bytes.IndexByte(p, 1) < 0 {
		return w.out.Write(p)
	}
	data := append(w.held, p...)
	w.held = nil
	for {
		i := bytes.IndexByte(data, 1)
		if i < 0 || w.mark == nil {
			return len(p), w.pass(data)
		}
		if err := w.pass(data[:i]); err != nil {
			return len(p), err
		}
		data = data[i:]
		code, width, maybe := w.read(data)
		switch {
		case width > 0:
			found := w.found
			w.mark, w.found = nil, nil
			data = data[width:]
			found(code)
		case maybe:
			w.held = bytes.Clone(data)
			return len(p), nil
		default: // somebody else's control character
			if err := w.pass(data[:1]); err != nil {
				return len(p), err
			}
			data = data[1:]
		}
	}
}

func (w *markWriter) pass(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	_, err := w.out.Write(p)
	return err
}

// read looks for the mark at the beginning of data: its width if it is there, maybe if more bytes could make it one.
func (w *markWriter) read(data []byte) (code, width int, maybe bool) {
	if len(data) < len(w.mark) {
		return 0, 0, bytes.HasPrefix(w.mark, data)
	}
	rest, ok := bytes.CutPrefix(data, w.mark)
	if !ok {
		return 0, 0, false
	}
	end := bytes.IndexByte(rest, '\n')
	if end < 0 {
		return 0, 0, len(rest) < longestCode
	}
	code, err := strconv.Atoi(string(rest[:end]))
	if err != nil {
		return 0, 0, false
	}
	return code, len(w.mark) + end + 1, false
}

// flush passes on what was held back: no more will come.
func (w *markWriter) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.pass(w.held)
	w.held = nil
}
