package trace

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// A runner that is killed leaves a folder from which the next one ends the job.
func TestKilled(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv(childEnv); dir != "" {
		dir = filepath.Join(dir, "spool", "job-7")
		tr, _, err := Open(t.Context(), newServer(t), Options{
			Dir: dir, Timestamps: true, Debug: true,
			Record: Record{URL: "https://gitlab.example.com/", JobID: 7, Token: "t0ken", Labels: map[string]string{"project": "3"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tr.Stdout().Write([]byte("one\ntwo\nlost with the process")); err != nil {
			t.Fatal(err)
		}
		for { // until the record says that the server has it
			if lefts, err := Interrupted(filepath.Dir(dir)); err == nil && len(lefts) == 1 && lefts[0].Record.Sent > 0 {
				break
			}
		}
		os.Stdout.WriteString("\nready\n")
		select {}
	}
	cmd := child(t)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "ready" {
		t.Log(lines.Text())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()

	_, root, _ := strings.Cut(cmd.Env[len(cmd.Env)-1], "=")
	root = filepath.Join(root, "spool")
	lefts, err := Interrupted(root)
	if err != nil || len(lefts) != 1 {
		t.Fatalf("left: %v, %v", lefts, err)
	}
	rec := lefts[0].Record
	size := int64(len("2000-01-01T00:00:00.000000Z 01O one\n") * 2)
	if rec.Sent != size || rec.Size != size || !strings.HasPrefix(rec.Checksum, "crc32:") {
		t.Errorf("record %+v", rec)
	}
	rec.Sent, rec.Size, rec.Checksum = 0, 0, ""
	diff(t, "record", Record{
		URL: "https://gitlab.example.com/", JobID: 7, Token: "t0ken", Labels: map[string]string{"project": "3"},
		Timestamps: true, Debug: true,
	}, rec)
	s := newServer(t) // it lost all: the answer is 416
	if err := Finish(t.Context(), s, lefts[0], "the runner was killed", nil); err != nil {
		t.Fatal(err)
	}
	diff(t, "entries", []string{
		"01O one", "01O two", "00O \x1b[31;1mERROR: Job failed (system failure): the runner was killed\x1b[0;m",
	}, entries(t, s.text()))
	if !s.debug {
		t.Error("debug was not said")
	}
	if lefts, err := Interrupted(root); err != nil || len(lefts) != 0 {
		t.Errorf("left: %v, %v", lefts, err)
	}
}

// crash copies the spool folder as it is now, and ends the trace.
func crash(t *testing.T, tr *Trace) Left {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "crashed")
	if err := os.CopyFS(dir, os.DirFS(tr.dir)); err != nil {
		t.Fatal(err)
	}
	if err := tr.Close(t.Context(), silent); err != nil {
		t.Fatal(err)
	}
	lefts, err := Interrupted(filepath.Dir(dir))
	if err != nil || len(lefts) != 1 {
		t.Fatalf("left: %v, %v", lefts, err)
	}
	return lefts[0]
}

func TestFinish(t *testing.T) {
	const last = "\x1b[31;1mERROR: Job failed (system failure): killed\x1b[0;m\n"
	for _, tt := range []struct {
		name string
		lose func(s *server) // what the server forgets or has more
		want []string
	}{
		{"the server has what was sent", func(*server) {}, []string{"0s PATCH", "0s PUT failed"}},
		{"it has less", func(s *server) { s.log = s.log[:1] }, []string{"0s PATCH", "0s PATCH", "0s PUT failed"}},
		{"its last answer was lost", func(s *server) { s.log = append(s.log, "de"...) }, []string{"0s PATCH", "0s PATCH", "0s PUT failed"}},
		{
			"it has more than the disk", func(s *server) { s.log = append(s.log, strings.Repeat("x", 100)...) },
			[]string{"0s PATCH", "0s PUT failed", "0s PATCH", "0s PUT failed"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, nil, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
				write(t, tr.Stdout(), "abc\n")
				write(t, tr.Stdout(), "def") // not sent
				left := crash(t, tr)
				tt.lose(s)
				s.took()
				if err := Finish(t.Context(), s, left, "killed", nil); err != nil {
					t.Error(err)
				}
				diff(t, "calls", tt.want, s.took())
				diff(t, "log", "abc\ndef\n"+last, s.text())
				diff(t, "final", job.Update{
					State: job.Failed, Reason: job.SystemFailure, Checksum: checksum(s.log), ByteSize: int64(len(s.log)),
				}, *s.final)
				if _, err := os.Stat(left.Dir); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the folder is still there: %v", err)
				}
			})
		})
	}
}

func TestFinishAgain(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
		write(t, tr.Stdout(), "abc\n")
		left := crash(t, tr)
		s.onPatch = func(int64, []byte) (*job.Ack, error) { return nil, errDown }
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := Finish(ctx, s, left, "killed", nil); !errors.Is(err, errDown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		s.onPatch = nil
		lefts, err := Interrupted(filepath.Dir(left.Dir))
		if err != nil || len(lefts) != 1 {
			t.Fatalf("left: %v, %v", lefts, err)
		}
		if err := Finish(t.Context(), s, lefts[0], "killed again", nil); err != nil {
			t.Error(err)
		}
		diff(t, "log", "abc\n\x1b[31;1mERROR: Job failed (system failure): killed\x1b[0;m\n", s.text())
	})
}

func TestFinishWhatTheServerGaveUp(t *testing.T) {
	bubble(t, nil, func(t *testing.T, tr *Trace, s *server, _ context.Context) {
		write(t, tr.Stdout(), "abc\n")
		left := crash(t, tr)
		s.standing = job.Aborted
		if err := Finish(t.Context(), s, left, "killed", nil); err != nil {
			t.Error(err)
		}
		if lefts, err := Interrupted(filepath.Dir(left.Dir)); err != nil || len(lefts) != 0 {
			t.Errorf("left: %v, %v", lefts, err)
		}
	})
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if lefts, err := Interrupted(filepath.Join(root, "missing")); err != nil || lefts != nil {
		t.Errorf("no root: %v, %v", lefts, err)
	}
	for name, data := range map[string]string{
		"1/record.json": `{"job_id":1,"token":"x"}`, "1/trace": "",
		"2/record.json": `{"job_id":`,
		"3/trace":       "begun", "3/record.json.new": "{",
		"4/photo.jpg": "somebody's",
		"file":        "",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lefts, err := Interrupted(root)
	diff(t, "left", []Left{{Dir: filepath.Join(root, "1"), Record: Record{JobID: 1, Token: "x"}}}, lefts)
	if err == nil || !strings.Contains(err.Error(), filepath.Join(root, "2")) || !strings.Contains(err.Error(), filepath.Join(root, "4")) {
		t.Errorf("error %v", err)
	}
	for name, there := range map[string]bool{"2": true, "3": false, "4/photo.jpg": true, "file": true} {
		if _, err := os.Stat(filepath.Join(root, name)); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSpoolIsForTheOwnerOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "spool", "1")
		tr, _, err := Open(t.Context(), newServer(t), Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		write(t, tr.Stdout(), "a\n")
		for name, want := range map[string]fs.FileMode{
			"..": 0o700, ".": 0o700, spoolName: 0o600, recordName: 0o600,
		} {
			fi, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			diff(t, name, want, fi.Mode().Perm())
		}
		mustClose(t, tr, succeeded)
	})
}
