package trace

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const childEnv = "TRACE_TEST_CHILD"

// child is this test again, in a process of its own.
func child(t *testing.T) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), childEnv+"="+t.TempDir())
	return cmd
}

// A disk that takes no more is a file size limit here: the write that reaches it is cut short, the next ones fail.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	if os.Getenv(childEnv) == "" {
		if out, err := child(t).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	const size = 100_000
	signal.Ignore(syscall.SIGXFSZ)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: size, Max: size}); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var program bytes.Buffer
		s := newServer(t)
		o := Options{
			Dir: filepath.Join(os.Getenv(childEnv), "spool", "1"), Timestamps: true,
			Log: slog.New(slog.NewTextHandler(&program, nil)),
		}
		tr, ctx, err := Open(t.Context(), s, o)
		if err != nil {
			t.Fatal(err)
		}
		line := strings.Repeat("x", 99)
		for range 2000 {
			write(t, tr.Stdout(), line+"\n")
		}
		at(3*time.Second, s)
		if ctx.Err() != nil {
			t.Errorf("the job was stopped: %v", context.Cause(ctx))
		}
		crashed := filepath.Join(os.Getenv(childEnv), "crashed")
		if err := os.CopyFS(crashed, os.DirFS(filepath.Dir(o.Dir))); err != nil {
			t.Fatal(err)
		}
		tr.Printf("cleaning up")
		mustClose(t, tr, exit3) // the server compares the checksum

		got := entries(t, s.text())
		kept := size / len("2000-01-01T00:00:00.000000Z 01O "+line+"\n")
		if len(got) != kept+3 {
			t.Fatalf("%d entries, want %d", len(got), kept+3)
		}
		for _, e := range got[:kept] {
			diff(t, "entry", "01O "+line, e)
		}
		diff(t, "end", []string{
			"00O \x1b[0;33mWARNING: The runner cannot store more of this job's log (file too large). " +
				"The job goes on, but what it prints from here on is lost.\x1b[0;m",
			"00O \x1b[0Kcleaning up\x1b[0;m",
			"00O \x1b[31;1mERROR: Job failed: exit code 3\x1b[0;m",
		}, got[kept:])
		if n := strings.Count(program.String(), "level=ERROR"); n != 1 {
			t.Errorf("%d errors in the program log:\n%s", n, program.String())
		}

		// A crash at that time: the disk is still full, and what was in memory only is lost.
		lefts, err := Interrupted(crashed)
		if err != nil || len(lefts) != 1 {
			t.Fatalf("left: %v, %v", lefts, err)
		}
		s2 := newServer(t)
		if err := Finish(t.Context(), s2, lefts[0], "the runner was killed", nil); err != nil {
			t.Fatal(err)
		}
		got = entries(t, s2.text())
		diff(t, "end", "00O \x1b[31;1mERROR: Job failed (system failure): the runner was killed\x1b[0;m", got[len(got)-1])
		diff(t, "entries", kept+1, len(got))
	})
}

// What the runner says is bounded too when the disk is full.
func TestTailIsBounded(t *testing.T) {
	t.Parallel()
	s, err := openSpool(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.job([]byte("on disk"))
	s.close() // every write fails from here on
	for range 100 {
		s.job([]byte("lost\n"))
		s.runner(bytes.Repeat([]byte("said\n"), 1000))
	}
	size, sum := s.sums()
	diff(t, "size", int64(len("on disk")+maxTail), size)
	diff(t, "checksum", checksum([]byte(("on disk\n" + strings.Repeat("said\n", maxTail))[:size])), sum)
	tail, err := s.read(int64(len("on disk")), 10)
	diff(t, "read", "\nsaid\nsaid", string(tail))
	if err != nil {
		t.Error(err)
	}
}

func BenchmarkTrace(b *testing.B) {
	text := []byte(strings.Repeat("2026/11/23 10:00:00 [INFO] compile src/main/java/com/example/Controller.java ok 0.012s\n", 370))
	for name, change := range map[string]func(*Options){
		"plain":      func(*Options) {},
		"timestamps": func(o *Options) { o.Timestamps = true },
		"limited":    func(o *Options) { o.Timestamps, o.Limit = true, 4<<20 },
	} {
		b.Run(name, func(b *testing.B) {
			o := Options{
				Dir: filepath.Join(b.TempDir(), "1"), Limit: 1 << 40,
				Masked: []string{"eyJhbGciOiJSUzI1NiJ9.abc", "hunter2hunter2", "s3cr3t-pa55w0rd"},
			}
			change(&o)
			tr, _, err := Open(b.Context(), sinkServer{}, o)
			if err != nil {
				b.Fatal(err)
			}
			began := cpu(b)
			for b.Loop() {
				if _, err := tr.Stdout().Write(text); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*float64(len(text))/1e6/(cpu(b)-began), "MB/cpu-s")
			if err := tr.Close(b.Context(), succeeded); err != nil {
				b.Fatal(err)
			}
		})
	}
}
