package trace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/job"
)

var (
	succeeded = job.Result{State: job.Success}
	exit3     = job.Result{State: job.Failed, Reason: job.ScriptFailure, ExitCode: 3, Err: errors.New("exit code 3")}
	silent    = job.ResultOf(nil, job.ErrAborted)
)

// bubble runs a test of an open trace in fake time. Options are plain text unless change says more.
func bubble(t *testing.T, change func(*Options, *server), test func(t *testing.T, tr *Trace, s *server, ctx context.Context)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		o := Options{Dir: filepath.Join(t.TempDir(), "spool", "1")}
		if change != nil {
			change(&o, s)
		}
		tr, ctx, err := Open(t.Context(), s, o)
		if err != nil {
			t.Fatal(err)
		}
		test(t, tr, s, ctx)
		synctest.Wait() // for goroutines that should be gone
	})
}

func at(d time.Duration, s *server) { time.Sleep(time.Until(s.began.Add(d))); synctest.Wait() }

func write(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if n, err := io.WriteString(w, text); n != len(text) || err != nil {
		t.Errorf("write: %d, %v", n, err)
	}
	synctest.Wait()
}

func mustClose(t *testing.T, tr *Trace, r job.Result) {
	t.Helper()
	if err := tr.Close(t.Context(), r); err != nil {
		t.Errorf("close: %v", err)
	}
	if _, err := os.Stat(tr.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the spool is still there: %v", err)
	}
}

func diff(t *testing.T, what string, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func TestUploadRhythm(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
		synctest.Wait()
		diff(t, "before the first byte", []string{"0s PUT running"}, s.took())
		at(time.Second, s)
		write(t, tr.Stdout(), "a\n")
		diff(t, "first byte", []string{"1s PATCH"}, s.took())
		at(2*time.Second, s)
		write(t, tr.Stdout(), "b\n")
		at(3*time.Second, s)
		write(t, tr.Stdout(), "c\n")
		diff(t, "within the interval", []string(nil), s.took())
		at(4*time.Second, s)
		diff(t, "after the interval", []string{"4s PATCH"}, s.took())
		at(20*time.Second, s)
		diff(t, "silence", []string{"9s PUT running", "14s PUT running", "19s PUT running"}, s.took())
		write(t, tr.Stdout(), "d\n")
		diff(t, "after silence", []string{"20s PATCH"}, s.took())
		at(21*time.Second, s)
		mustClose(t, tr, succeeded)
		diff(t, "end", []string{"21s PATCH", "21s PUT success"}, s.took())
		diff(t, "log", "a\nb\nc\nd\n\x1b[32;1mJob succeeded\x1b[0;m\n", s.text())
	})
}

func TestUploadObeysTheServersInterval(t *testing.T) {
	unwatched := func(_ *Options, s *server) { s.interval = time.Minute }
	bubble(t, unwatched, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
		write(t, tr.Stdout(), "a\n")
		write(t, tr.Stdout(), "b\n")
		at(2*time.Minute, s)
		// The sign of life does not wait as long as the log may.
		diff(t, "calls", []string{
			"0s PUT running", "0s PATCH", "30s PUT running", "1m0s PATCH", "1m30s PUT running", "2m0s PUT running",
		}, s.took())
		mustClose(t, tr, succeeded)
		diff(t, "end", []string{"2m0s PATCH", "2m0s PUT success"}, s.took())
	})
}

func TestFlush(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
		write(t, tr.Stdout(), "a\n")
		s.took()
		for range 5 {
			write(t, tr.Stdout(), "b\n")
			tr.Flush()
		}
		at(time.Second, s)
		diff(t, "flushes in a row", []string{"200ms PATCH"}, s.took())
		tr.Flush()
		at(1500*time.Millisecond, s)
		diff(t, "flush of nothing", []string(nil), s.took())
		write(t, tr.Stdout(), "c\n")
		at(2*time.Second, s)
		diff(t, "back in the steady state", []string(nil), s.took())
		tr.Flush()
		synctest.Wait()
		diff(t, "flush", []string{"2s PATCH"}, s.took())
		mustClose(t, tr, succeeded)
	})
}

func TestUploadInPieces(t *testing.T) {
	big := func(o *Options, _ *server) { o.Limit, o.Debug = 10<<20, true }
	bubble(t, big, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
		write(t, tr.Stdout(), "x")
		text := strings.Repeat("0123456789abcde\n", 5<<16)
		write(t, tr.Stdout(), text)
		at(3*time.Second, s)
		diff(t, "calls", []string{
			"0s PUT running", "0s PATCH", "3s PATCH", "3s PATCH", "3s PATCH", "3s PATCH", "3s PATCH",
		}, s.took())
		if s.text() != "x"+text {
			t.Error("the log is another")
		}
		if !s.debug {
			t.Error("debug was not said")
		}
		mustClose(t, tr, succeeded)
	})
}

func TestCanceling(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Trace, s *server, ctx context.Context) {
		at(time.Second, s)
		s.set(func(s *server) { s.standing = job.Canceling })
		began := time.Now()
		<-tr.Canceling()
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("noticed after %v", d)
		}
		at(20*time.Second, s) // it is said again and again
		if ctx.Err() != nil {
			t.Errorf("the job was stopped: %v", context.Cause(ctx))
		}
		mustClose(t, tr, job.ResultOf(job.ErrCanceling, nil))
		diff(t, "log", "\x1b[31;1mERROR: Job failed: canceled\x1b[0;m\n", s.text())
		diff(t, "final", job.UnknownFailure, s.final.Reason)
	})
}

func TestAbort(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*server)
	}{
		{"Job-Status of an update", func(s *server) { s.standing = job.Aborted }},
		{"403 of an update", func(s *server) {
			s.onUpdate = func(job.Update) (*job.Ack, error) { return &job.Ack{Verdict: job.Forbidden}, nil }
		}},
		{"404 of an update", func(s *server) {
			s.onUpdate = func(job.Update) (*job.Ack, error) { return &job.Ack{Verdict: job.NotFound}, nil }
		}},
		{"403 of a piece", func(s *server) {
			s.onPatch = func(int64, []byte) (*job.Ack, error) { return &job.Ack{Verdict: job.Forbidden}, nil }
		}},
		{"Job-Status of a piece", func(s *server) {
			s.onPatch = func(int64, []byte) (*job.Ack, error) { return &job.Ack{Standing: job.Aborted}, nil }
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, tr *Trace, s *server, ctx context.Context) {
				at(time.Second, s)
				s.set(tt.change)
				write(t, tr.Stdout(), "a\n")
				<-ctx.Done()
				if err := context.Cause(ctx); !errors.Is(err, job.ErrAborted) {
					t.Errorf("cause %v", err)
				}
				s.took()
				write(t, tr.Stdout(), "nobody reads this\n")
				at(time.Hour, s)
				mustClose(t, tr, silent)
				diff(t, "calls after the end", []string(nil), s.took())
			})
		})
	}
}

func TestAbortAtTheEnd(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
		at(time.Second, s)
		s.took()
		s.set(func(s *server) { s.standing = job.Aborted })
		mustClose(t, tr, succeeded) // the server knows better: nothing to deliver, nothing to keep
		diff(t, "calls", []string{"1s PATCH"}, s.took())
	})
}

func TestNotFoundPieceIsNoReasonToStop(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Trace, s *server, ctx context.Context) {
		turn := inTurn(job.Ack{Verdict: job.NotFound}, job.Ack{Verdict: job.NotFound})
		s.set(func(s *server) { s.onPatch = func(int64, []byte) (*job.Ack, error) { return turn() } })
		write(t, tr.Stdout(), "a\n")
		at(6*time.Second, s)
		diff(t, "calls", []string{"0s PUT running", "0s PATCH", "3s PATCH", "5s PUT running", "6s PATCH"}, s.took())
		diff(t, "log", "a\n", s.text())
		if ctx.Err() != nil {
			t.Error("the job was stopped")
		}
		mustClose(t, tr, succeeded)
	})
}

func TestNotFoundPieceAtTheEnd(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
		var final job.Update
		s.set(func(s *server) {
			s.onPatch = func(int64, []byte) (*job.Ack, error) { return &job.Ack{Verdict: job.NotFound}, nil }
			s.onUpdate = func(u job.Update) (*job.Ack, error) { final = u; return &job.Ack{}, nil }
		})
		write(t, tr.Stdout(), "a\n")
		mustClose(t, tr, exit3) // the state is told without the log
		diff(t, "state", job.Failed, final.State)
		diff(t, "exit code", 3, final.ExitCode)
	})
}

func TestOutOfRange(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
		write(t, tr.Stdout(), "abcd\n")
		s.set(func(s *server) { s.log = s.log[:2] }) // it lost something
		s.took()
		write(t, tr.Stdout(), "efgh\n")
		at(3*time.Second, s)
		diff(t, "calls", []string{"3s PATCH", "3s PATCH"}, s.took())
		diff(t, "log", "abcd\nefgh\n", s.text())

		s.set(func(s *server) {
			s.onPatch = func(start int64, _ []byte) (*job.Ack, error) { // whatever is asked
				return &job.Ack{Verdict: job.OutOfRange, Offset: 5 - start%5}, nil
			}
		})
		write(t, tr.Stdout(), "ijkl\n")
		at(9*time.Second, s)
		diff(t, "no endless argument", []string{
			"6s PATCH", "6s PATCH", "8s PUT running", "9s PATCH", "9s PATCH",
		}, s.took())
		s.set(func(s *server) { s.onPatch = nil })
		mustClose(t, tr, succeeded)
		diff(t, "log", "abcd\nefgh\nijkl\n\x1b[32;1mJob succeeded\x1b[0;m\n", s.text())
	})
}

func TestServerVanishesForAMinute(t *testing.T) {
	var program bytes.Buffer
	change := func(o *Options, _ *server) { o.Log = slog.New(slog.NewTextHandler(&program, nil)) }
	bubble(t, change, func(t *testing.T, tr *Trace, s *server, ctx context.Context) {
		write(t, tr.Stdout(), "0\n")
		want := "0\n"
		lost := false
		s.set(func(s *server) {
			s.onUpdate = func(job.Update) (*job.Ack, error) { return nil, errDown }
			s.onPatch = func(_ int64, chunk []byte) (*job.Ack, error) {
				if !lost { // the first piece arrives, its answer does not
					lost = true
					s.log = append(s.log, chunk...)
				}
				return nil, errDown
			}
		})
		for i := 1; i < 60; i++ {
			at(time.Duration(i)*time.Second, s)
			line := fmt.Sprintln(i)
			write(t, tr.Stdout(), line)
			want += line
		}
		if n := len(s.took()); n > 40 {
			t.Errorf("%d calls in a minute", n)
		}
		s.set(func(s *server) { s.onUpdate, s.onPatch = nil, nil })
		at(65*time.Second, s)
		diff(t, "log", want, s.text())
		if ctx.Err() != nil {
			t.Error("the job was stopped")
		}
		mustClose(t, tr, succeeded)
		if n := strings.Count(program.String(), "\n"); n != 2 {
			t.Errorf("%d lines in the program log:\n%s", n, program.String())
		}
	})
}

func TestUploadOutlivesTheJobsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		ctx, stop := context.WithCancelCause(t.Context())
		tr, jobCtx, err := Open(ctx, s, Options{Dir: filepath.Join(t.TempDir(), "1")})
		if err != nil {
			t.Fatal(err)
		}
		stop(job.ErrShutdown)
		<-jobCtx.Done()
		if err := context.Cause(jobCtx); !errors.Is(err, job.ErrShutdown) {
			t.Errorf("cause %v", err)
		}
		write(t, tr.Stdout(), "cleaning up\n")
		diff(t, "log", "cleaning up\n", s.text())
		mustClose(t, tr, job.ResultOf(nil, context.Cause(jobCtx)))
		diff(t, "log", "cleaning up\n\x1b[31;1mERROR: Job failed (system failure): aborted: the runner was shut down\x1b[0;m\n", s.text())
	})
}
