package trace

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// finalTurn answers the final updates only.
func finalTurn(answers ...any) func(job.Update) (*job.Ack, error) {
	turn := inTurn(answers...)
	return func(u job.Update) (*job.Ack, error) {
		if u.State == job.Running {
			return nil, nil
		}
		return turn()
	}
}

func TestFinalUpdate(t *testing.T) {
	for _, tt := range []struct {
		name    string
		answers []any
		want    []string
	}{
		{"at once", nil, []string{"0s PATCH", "0s PUT failed"}},
		{
			"202: not ready",
			[]any{
				job.Ack{Verdict: job.NotReady},
				job.Ack{Verdict: job.NotReady, Interval: 4 * time.Second},
			},
			[]string{"0s PATCH", "0s PUT failed", "1s PUT failed", "5s PUT failed"},
		},
		{
			"412: resend all",
			[]any{job.Ack{Verdict: job.Resend}},
			[]string{"0s PATCH", "0s PUT failed", "0s PATCH", "0s PUT failed"}, // the second piece: 416, it has all
		},
		{
			"down",
			[]any{errDown, errDown, errDown, errDown},
			[]string{"0s PATCH", "0s PUT failed", "1s PUT failed", "3s PUT failed", "7s PUT failed", "15s PUT failed"},
		},
		{"403", []any{job.Ack{Verdict: job.Forbidden, Standing: job.Aborted}}, []string{"0s PATCH", "0s PUT failed"}},
		{"404", []any{job.Ack{Verdict: job.NotFound}}, []string{"0s PATCH", "0s PUT failed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			change := func(o *Options, s *server) {
				o.Record.FailureReasons = []job.Reason{job.ConfigurationError}
				s.onUpdate = finalTurn(tt.answers...)
			}
			bubble(t, change, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
				synctest.Wait()
				s.took()
				mustClose(t, tr, exit3)
				diff(t, "calls", tt.want, s.took())
				diff(t, "log", "\x1b[31;1mERROR: Job failed: exit code 3\x1b[0;m\n", s.text())
				if s.final != nil {
					diff(t, "final", job.Update{
						State: job.Failed, Reason: job.ScriptFailure, ExitCode: 3,
						Checksum: checksum(s.log), ByteSize: int64(len(s.log)),
					}, *s.final)
				}
			})
		})
	}
}

func TestServerLostTheLog(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
		write(t, tr.Stdout(), "abc\n")
		s.set(func(s *server) { s.log = []byte("xyz\n") }) // as long, but not ours: the final update finds out
		mustClose(t, tr, succeeded)
		diff(t, "log", "abc\n\x1b[32;1mJob succeeded\x1b[0;m\n", s.text())
	})
}

func TestFinalReason(t *testing.T) {
	for _, tt := range []struct {
		reason job.Reason
		known  []job.Reason
		want   job.Reason
	}{
		{job.ImagePullFailure, nil, job.SystemFailure},
		{job.ImagePullFailure, []job.Reason{job.ImagePullFailure}, job.ImagePullFailure},
		{job.RunnerInterrupted, nil, job.UnknownFailure},
		{"", nil, job.ScriptFailure},
	} {
		t.Run(string(tt.reason), func(t *testing.T) {
			change := func(o *Options, _ *server) { o.Record.FailureReasons = tt.known }
			bubble(t, change, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
				mustClose(t, tr, job.Result{State: job.Failed, Reason: tt.reason})
				diff(t, "reason", tt.want, s.final.Reason)
			})
		})
	}
}

// undelivered closes a trace whose end cannot be told and returns its folder.
func undelivered(t *testing.T, tr *Trace, ctx context.Context, want error) Left {
	t.Helper()
	if err := tr.Close(ctx, succeeded); !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
	lefts, err := Interrupted(filepath.Dir(tr.dir))
	if err != nil || len(lefts) != 1 {
		t.Fatalf("left: %v, %v", lefts, err)
	}
	return lefts[0]
}

func TestFinalTries(t *testing.T) {
	change := func(o *Options, _ *server) { o.FinalTries = 4 }
	bubble(t, change, func(t *testing.T, tr *Trace, s *server, ctx context.Context) {
		write(t, tr.Stdout(), "abc\n")
		s.took()
		s.set(func(s *server) {
			s.onPatch = func(int64, []byte) (*job.Ack, error) { return nil, errDown }
		})
		left := undelivered(t, tr, t.Context(), errDown)
		diff(t, "calls", []string{"0s PATCH", "1s PATCH", "3s PATCH", "7s PATCH"}, s.took())

		s.onPatch = nil
		if err := Finish(t.Context(), s, left, "is not to be seen", nil); err != nil {
			t.Error(err)
		}
		diff(t, "log", "abc\n\x1b[32;1mJob succeeded\x1b[0;m\n", s.text())
		diff(t, "state", job.Success, s.final.State)
	})
}

func TestEndless412(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
		s.set(func(s *server) {
			s.onUpdate = func(u job.Update) (*job.Ack, error) {
				if u.State == job.Running {
					return nil, nil
				}
				s.log = nil
				return &job.Ack{Verdict: job.Resend}, nil
			}
		})
		undelivered(t, tr, t.Context(), errResend)
	})
}

func TestCloseIsBoundedByItsContext(t *testing.T) {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for _, tt := range []struct {
		name string
		of   func(s *hangingServer)
	}{
		{"in the first call", func(s *hangingServer) { s.update = hang }},
		{"in the log", func(s *hangingServer) { s.patch = hang }},
		{"while it retries", func(s *hangingServer) { s.patch = func(context.Context) error { return errDown } }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &hangingServer{server: newServer(t)}
				tt.of(s)
				tr, _, err := Open(t.Context(), s, Options{Dir: filepath.Join(t.TempDir(), "1")})
				if err != nil {
					t.Fatal(err)
				}
				write(t, tr.Stdout(), "abc\n")
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				began := time.Now()
				undelivered(t, tr, ctx, context.DeadlineExceeded)
				diff(t, "time", 10*time.Second, time.Since(began))
			})
		})
	}
}

// hangingServer does something before each call.
type hangingServer struct {
	*server
	update, patch func(context.Context) error
}

func (s *hangingServer) Update(ctx context.Context, u job.Update) (job.Ack, error) {
	if s.update != nil {
		if err := s.update(ctx); err != nil {
			return job.Ack{}, err
		}
	}
	return s.server.Update(ctx, u)
}

func (s *hangingServer) PatchTrace(ctx context.Context, start int64, chunk []byte, debug bool) (job.Ack, error) {
	if s.patch != nil {
		if err := s.patch(ctx); err != nil {
			return job.Ack{}, err
		}
	}
	return s.server.PatchTrace(ctx, start, chunk, debug)
}

func TestSilentEndDoesNotWaitForTheServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &hangingServer{server: newServer(t)}
		s.update = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		tr, _, err := Open(t.Context(), s, Options{Dir: filepath.Join(t.TempDir(), "1")})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		mustClose(t, tr, silent)
		diff(t, "time", time.Duration(0), time.Since(s.began))
	})
}

func TestAfterClose(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Trace, s *server, ctx context.Context) {
		end := tr.Section("script", "Script")
		mustClose(t, tr, succeeded)
		log := s.text()
		if n, err := tr.Stdout().Write([]byte("late")); n != 0 || !errors.Is(err, os.ErrClosed) {
			t.Errorf("write: %d, %v", n, err)
		}
		end()
		tr.Printf("late")
		tr.Section("late", "late")()
		tr.Flush()
		tr.AddMasked("late")
		if err := tr.Close(t.Context(), succeeded); !errors.Is(err, os.ErrClosed) {
			t.Errorf("close: %v", err)
		}
		diff(t, "log", log, s.text())
		if !errors.Is(ctx.Err(), context.Canceled) {
			t.Error("the job context is not over")
		}
	})
}

func TestOpenDoesNotTakeAFolderThatIsThere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, _, err := Open(t.Context(), newServer(t), Options{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "file exists") {
		t.Errorf("error %v", err)
	}
}
