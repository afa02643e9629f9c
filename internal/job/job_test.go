package job

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestPayload reads a recorded payload with services.
func TestPayload(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/services.json")
	if err != nil {
		t.Fatal(err)
	}
	var s Spec
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	if s.ID == 0 || s.Token == "" || s.JobInfo.ProjectFullPath == "" || len(s.Variables) == 0 || len(s.Services) != 1 {
		t.Errorf("read %+v", s)
	}
	if st, ok := s.Step("script"); !ok || len(st.Script) == 0 {
		t.Errorf("script: %+v", s.Steps)
	}
}

// TestPayloadForms: what servers of other versions send instead must not lose the job.
func TestPayloadForms(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, json string
		check      func(Spec) bool
	}{
		{"user as a number", `{"image":{"name":"x","executor_opts":{"docker":{"user":1000}}}}`, func(s Spec) bool { return s.Image.ExecutorOpts.Docker.User == "1000" }},
		{"user as a string", `{"image":{"executor_opts":{"docker":{"user":"me:us"}}}}`, func(s Spec) bool { return s.Image.ExecutorOpts.Docker.User == "me:us" }},
		{"user null", `{"image":{"executor_opts":{"docker":{"user":null}}}}`, func(s Spec) bool { return s.Image.ExecutorOpts.Docker.User == "" }},
		{"all null", `{"image":null,"services":null,"artifacts":null,"variables":null,"steps":null,"features":null,"git_info":null}`, func(s Spec) bool { return s.Timeout() == 2*time.Hour }},
		{"unknown fields", `{"nonsense":{"a":[1]},"id":5}`, func(s Spec) bool { return s.ID == 5 }},
		{"timeout", `{"runner_info":{"timeout":60}}`, func(s Spec) bool { return s.Timeout() == time.Minute }},
		{"protected", `{"git_info":{"protected":true}}`, func(s Spec) bool { return s.GitInfo.IsProtected() }},
		{"not said to be protected", `{"git_info":{}}`, func(s Spec) bool { return !s.GitInfo.IsProtected() }},
	} {
		var s Spec
		if err := json.Unmarshal([]byte(c.json), &s); err != nil || !c.check(s) {
			t.Errorf("%s: %v, %+v", c.name, err, s)
		}
	}
	if err := json.Unmarshal([]byte(`{"image":{"executor_opts":{"docker":{"user":[1]}}}}`), new(Spec)); err == nil {
		t.Error("a list of users is taken")
	}
}

func TestExpanded(t *testing.T) {
	t.Parallel()
	vs := Variables{
		{Key: "A", Value: "1"},
		{Key: "A", Value: "2"},
		{Key: "B", Value: "$A-${A}-$UNKNOWN-$$A-$1-$@-${}"},
		{Key: "C", Value: "$B"},
		{Key: "RAW", Value: "$A", Raw: true},
		{Key: "FILE", Value: "content $A", File: true},
		{Key: "D", Value: "$FILE $RAW"},
		{Key: "END", Value: "100%$"},
	}
	got := map[string]string{}
	for _, v := range vs.Expanded(func(key string) string { return "/tmp/" + key }) {
		got[v.Key] = v.Value
	}
	want := map[string]string{
		"A": "2", "B": "2-2--$A---", "C": "$A-${A}-$UNKNOWN-$$A-$1-$@-${}", "RAW": "$A",
		"FILE": "content 2", "D": "/tmp/FILE $A", "END": "100%$",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestExpandProperties: text without a dollar sign stays, doubled ones become single, and one pass is one pass.
func TestExpandProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		vs := Variables{{Key: "V", Value: text}}
		if got := vs.Expand("<$V|${V}>"); got != "<"+text+"|"+text+">" {
			t.Errorf("inserted %q as %q", text, got)
		}
		if got := vs.Expand(strings.ReplaceAll(text, "$", "$$")); got != text {
			t.Errorf("escaped %q comes out as %q", text, got)
		}
		vs.Expand(text) // any text: no panic
	})
}

func TestLookup(t *testing.T) {
	t.Parallel()
	vs := Variables{{Key: "A", Value: "true"}, {Key: "B", Value: "yes"}, {Key: "A", Value: "1", Masked: true}, {Key: "E", Masked: true}, {Key: "L", Value: "123", Masked: true}}
	if vs.Get("A") != "1" || !vs.Bool("A") || vs.Bool("B") || vs.Bool("NONE") {
		t.Error("lookup")
	}
	if diff := cmp.Diff([]string{"123", "1"}, vs.MaskedValues()); diff != "" {
		t.Error(diff)
	}
}

func TestSecret(t *testing.T) {
	t.Parallel()
	for token, want := range map[Secret]string{
		"glrt-t1_abcdefghijkl": "abcdefghi", "glrt-abcdefghijkl": "abcdefghi", "glrtr-abcdefghijkl": "abcdefghi",
		"GR1348941abcdefghijkl": "abcdefghi", "short": "short", "": "", "glrt-t4_abcdefghi": "t4_abcdef",
	} {
		if got := token.Short(); got != want {
			t.Errorf("%s: short form %q, want %q", token.Reveal(), got, want)
		}
	}
	s := Secret("hunter2")
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "token", s)
	for _, text := range []string{fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %s %q", s, s, s, s, s), log.String()} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("the secret shows: %s", text)
		}
	}
}

func TestResultOf(t *testing.T) {
	t.Parallel()
	script := &Error{Reason: ScriptFailure, ExitCode: 3, Err: errors.New("exit code 3"), Hint: "h"}
	timeout := &TimeoutError{After: time.Minute}
	for _, c := range []struct {
		name       string
		err, cause error
		want       Result
	}{
		{"success", nil, nil, Result{State: Success}},
		{"script", fmt.Errorf("stage: %w", script), nil, Result{State: Failed, Reason: ScriptFailure, ExitCode: 3, Hint: "h"}},
		{"ours", errors.New("disk"), nil, Result{State: Failed, Reason: SystemFailure}},
		{"timeout", timeout, timeout, Result{State: Failed, Reason: TimeoutFailure, Hint: timeoutHint}},
		{"timeout wins over its consequence", script, timeout, Result{State: Failed, Reason: TimeoutFailure, Hint: timeoutHint}},
		{"canceled", ErrCanceling, nil, Result{State: Failed, Reason: jobCanceled}},
		{"aborted", script, ErrAborted, Result{State: Failed, Reason: jobCanceled, Silent: true}},
		{"shut down", script, ErrShutdown, Result{State: Failed, Reason: RunnerInterrupted}},
	} {
		got := ResultOf(c.err, c.cause)
		if (got.Err == nil) != (c.want.State == Success) {
			t.Errorf("%s: error %v", c.name, got.Err)
		}
		got.Err = nil
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
	}
	if got := timeout.Error(); got != "execution took longer than 1m0s seconds" {
		t.Error(got)
	}
}

func TestKnownTo(t *testing.T) {
	t.Parallel()
	server := []Reason{UnknownFailure, ImagePullFailure}
	for _, c := range []struct{ reason, known, unknown Reason }{
		{ScriptFailure, ScriptFailure, ScriptFailure},
		{SystemFailure, SystemFailure, SystemFailure},
		{TimeoutFailure, TimeoutFailure, TimeoutFailure},
		{ImagePullFailure, ImagePullFailure, SystemFailure},
		{ExternalDependencyFailure, SystemFailure, SystemFailure},
		{ConfigurationError, ScriptFailure, ScriptFailure},
		{RunnerInterrupted, UnknownFailure, UnknownFailure},
		{jobCanceled, UnknownFailure, UnknownFailure},
	} {
		if got := c.reason.KnownTo(server); got != c.known {
			t.Errorf("%s is sent as %s, want %s", c.reason, got, c.known)
		}
		if got := c.reason.KnownTo(nil); got != c.unknown {
			t.Errorf("%s is sent to an old server as %s, want %s", c.reason, got, c.unknown)
		}
	}
}
