package trace

import (
	"bytes"
	"fmt"
	"io"
)

// firstService is the number of the first service's stream.
//
// GitLab: the same.
const firstService = 0x0f

// Service opens a way into the log for what a service prints. Each line of it stands after the service's name.
func (t *Trace) Service(name string) io.Writer {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.newStream(fmt.Sprintf("%02xO", min(firstService+len(t.services), 0xff)), true, "[service:"+name+"] ")
	t.services = append(t.services, s)
	return s
}

// prefixer puts a text before each line, after what is masked has been taken out: that may go over several lines.
type prefixer struct {
	prefix string
	next   sink
	open   bool // the last line has no end yet
	out    []byte
}

func (w *prefixer) write(p []byte) {
	w.out = w.out[:0]
	for line := range bytes.Lines(p) {
		if !w.open {
			w.out = append(w.out, w.prefix...)
		}
		w.out = append(w.out, line...)
		w.open = line[len(line)-1] != '\n'
	}
	if len(w.out) > 0 {
		w.next(w.out)
	}
}

// end makes the next text begin a line.
func (w *prefixer) end() {
	if w.open {
		w.open = false
		w.next([]byte("\n"))
	}
}
