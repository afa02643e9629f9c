package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

// The most memory that Slipway may ever have had, in MiB. The race detector takes several times as much.
const (
	memoryBound     = 60
	memoryBoundRace = 200
)

// peak is the most memory that the process ever had, in MiB.
func (r *rig) peak() int {
	r.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.process.Process.Pid))
	if err != nil {
		r.t.Fatal(err)
	}
	var kib int
	_, after, _ := strings.Cut(string(b), "VmHWM:")
	if _, err := fmt.Sscan(after, &kib); err != nil {
		r.t.Fatal(err)
	}
	return kib >> 10
}

func (r *rig) staysSmall() {
	r.t.Helper()
	bound := memoryBound
	if raceDetector {
		bound = memoryBoundRace
	}
	if got := r.peak(); got > bound {
		r.t.Errorf("slipway had %d MiB of memory, want at most %d", got, bound)
	}
}

// printed is what a job wrote to its standard output, as its log with or without timestamps has it.
func printed(trace []byte) []byte {
	var out []byte
	for entry := range bytes.SplitSeq(trace, []byte("\n")) {
		const stamp = len("2026-11-23T09:34:56.845929Z ")
		if len(entry) <= stamp+3 || string(entry[stamp:stamp+3]) != "01O" {
			continue
		}
		if entry[stamp+3] == ' ' {
			out = append(out, '\n')
		}
		out = append(out, entry[stamp+4:]...)
	}
	if out == nil {
		return trace
	}
	return out
}

// quoted is what a job printed between two marks.
func quoted(t *testing.T, j *coordinator.Job) []byte {
	t.Helper()
	_, after, ok1 := bytes.Cut(printed(j.Trace()), []byte("\nBEGIN\n"))
	text, _, ok2 := bytes.Cut(after, []byte("END\n"))
	if !ok1 || !ok2 {
		t.Fatal("the log lacks what was printed")
	}
	return text
}

// TestOutputOfAllKinds: what a job prints arrives as it is, with timestamps and without.
func TestOutputOfAllKinds(t *testing.T) {
	t.Parallel()
	r := newRig(t, runnerKeys("output_limit = 40960"))
	jobs := map[string]*coordinator.Job{}
	for name, command := range map[string]string{
		"a long line":      "head -c 10000000 /dev/zero | tr '\\0' x",
		"binary":           "head -c 1000000 /dev/urandom",
		"zeroes":           "head -c 1000000 /dev/zero",
		"many short lines": "seq 1 100000",
	} {
		for _, stamps := range []string{"true", "false"} {
			jobs[name+", timestamps "+stamps] = r.enqueue(withVariables(spec(
				command+" >file; echo >>file", "echo BEGIN; cat file; echo END", "echo sum $(sha256sum <file)"), "FF_TIMESTAMPS", stamps))
		}
	}
	for name, j := range jobs {
		t.Run(name, func(t *testing.T) {
			o, err := j.Wait(t.Context())
			if err != nil || o.State != job.Success {
				t.Fatalf("job ended as %+v, %v", o, err)
			}
			text := quoted(t, j)
			if sum := sha256.Sum256(text); !bytes.Contains(j.Trace(), []byte("sum "+hex.EncodeToString(sum[:]))) {
				t.Errorf("the log has other %d bytes than were printed", len(text))
			}
		})
	}
	r.staysSmall()
}

const muchOutput = "{ yes $(printf %0999d 7) || true; } | head -c 100000000"

// TestMuchOutput: a hundred megabytes, all of which are wanted.
func TestMuchOutput(t *testing.T) {
	t.Parallel()
	r := newRig(t, runnerKeys("output_limit = 204800"))
	j := r.enqueue(spec(muchOutput))
	o, err := j.Wait(t.Context())
	if err != nil || o.State != job.Success {
		t.Fatalf("job ended as %+v, %v", o, err)
	}
	if n := bytes.Count(j.Trace(), fmt.Appendf(nil, " %0999d\n", 7)); n != 100000 {
		t.Errorf("%d lines of 100000", n)
	}
	r.staysSmall()
}

// TestTooMuchOutput: the log is cut at GitLab's 4 MiB, the job goes on to its end.
func TestTooMuchOutput(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	j := r.enqueue(withAfter(spec(muchOutput, "exit 5"), "echo after"))
	o, log := r.end(j)
	r.ended(o, "", job.ScriptFailure, 5)
	log = log[max(0, len(log)-2000):]
	once(t, log, "\nJob's log exceeded limit of 4194304 bytes.\n")
	once(t, log, "\nERROR: Job failed: exit code 5\n")
	if n := len(printed(j.Trace())); n > 4<<20+100 || n < 4<<20-100 {
		t.Errorf("%d bytes of output in the log", n)
	}
	r.staysSmall()
}
