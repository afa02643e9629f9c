package executor

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/mishap"
)

// defective is a job log with a defect.
type defective struct{}

func (defective) Write([]byte) (int, error) { panic("defect") }

// printer is a place whose shell prints without end, until it is killed.
type printer struct {
	place
	kills chan struct{}
}

func (p *printer) start(_ context.Context, stdout, _ io.Writer) (*shell, error) {
	sh := &shell{nowhere{}, make(chan struct{})}
	go func() {
		for {
			if _, err := io.WriteString(stdout, "text"); err != nil {
				close(sh.ended)
				return
			}
		}
	}()
	return sh, nil
}

func (p *printer) line(string, string) string { return "" }

func (p *printer) kill(context.Context) error {
	close(p.kills)
	return nil
}

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) Close() error                { return nil }

// TestDefectOfTheLog: what is wrong with one job's log ends that job, and not the program.
func TestDefectOfTheLog(t *testing.T) {
	t.Parallel()
	p := &printer{kills: make(chan struct{})}
	s := &session{place: p, grace: time.Minute}
	s.passOn(defective{}, io.Discard)
	var err error
	if s.shell, err = p.start(t.Context(), s.stdout, s.stderr); err != nil {
		t.Fatal(err)
	}
	err = s.run(t.Context(), t.Context(), "script")
	if e := (*mishap.Error)(nil); !errors.As(err, &e) {
		t.Error(err)
	}
	<-p.kills // it would go on, unheard
	if s.shell != nil {
		t.Error("the next stage gets a shell whose output goes nowhere")
	}
}
