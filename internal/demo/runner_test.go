package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// smallRunner is the least of a runner: it fetches jobs from the coordinator of a config file and runs their script in
// one container, with the docker command. The demo's own tests run on it; the real runner's are elsewhere.
type smallRunner struct {
	t          *testing.T
	url, token string
	started    chan struct{}                                     // closed when the first job's script starts
	run        func(context.Context, *job.Spec, io.Writer) error // nil = in a container
}

var configString = regexp.MustCompile(`(?m)^ *(url|token) = "(.*)"$`)

// start is a StartRunner.
func (r *smallRunner) start(ctx context.Context, config, stateDir string) (func() error, error) {
	text, err := os.ReadFile(config)
	if err != nil {
		return nil, err
	}
	for _, m := range configString.FindAllStringSubmatch(string(text), -1) {
		if m[1] == "url" {
			r.url = strings.TrimSuffix(m[2], "/")
		} else {
			r.token = m[2]
		}
	}
	if r.run == nil {
		r.run = r.inContainer
	}
	r.started = make(chan struct{})
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- r.poll(ctx) }()
	return func() error { cancel(); return <-done }, nil
}

func (r *smallRunner) poll(ctx context.Context) error {
	first := sync.OnceFunc(func() { close(r.started) })
	for last := ""; ctx.Err() == nil; {
		resp, body, err := r.call(ctx, http.MethodPost, "/jobs/request", nil, map[string]any{"token": r.token, "last_update": last})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case resp.StatusCode == http.StatusNoContent:
			last = resp.Header.Get("X-Gitlab-Last-Update")
			continue
		case resp.StatusCode != http.StatusCreated:
			return fmt.Errorf("request a job: %s", resp.Status)
		}
		var spec job.Spec
		if err := json.Unmarshal(body, &spec); err != nil {
			return err
		}
		first()
		log := &sender{runner: r, spec: &spec}
		state := map[string]any{"token": spec.Token, "state": "success"}
		if err := r.run(ctx, &spec, log); err != nil {
			fmt.Fprintf(log, "%v\n", err)
			state["state"], state["failure_reason"] = "failed", "script_failure"
		}
		// A job that is aborted is reported all the same.
		if _, _, err := r.call(context.WithoutCancel(ctx), http.MethodPut, fmt.Sprintf("/jobs/%d", spec.ID), nil, state); err != nil {
			return err
		}
	}
	return nil
}

func (r *smallRunner) call(ctx context.Context, method, path string, header map[string]string, body any) (*http.Response, []byte, error) {
	raw, ok := body.([]byte)
	if !ok {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return nil, nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, r.url+"/api/v4"+path, bytes.NewReader(raw))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp, answer, err
}

// sender sends each line of a job's log, with a timestamp as GitLab's runner puts it.
type sender struct {
	runner *smallRunner
	spec   *job.Spec
	line   []byte
	sent   int
}

func (s *sender) Write(b []byte) (int, error) {
	for c := range bytes.SplitAfterSeq(b, []byte("\n")) {
		s.line = append(s.line, c...)
		if !bytes.HasSuffix(c, []byte("\n")) {
			continue
		}
		piece := append([]byte(time.Now().UTC().Format("2006-01-02T15:04:05.000000Z")+" 01O "), s.line...)
		s.line = nil
		header := map[string]string{
			"Job-Token":     s.spec.Token.Reveal(),
			"Content-Range": fmt.Sprintf("%d-%d", s.sent, s.sent+len(piece)-1),
			"Content-Type":  "text/plain",
		}
		resp, _, err := s.runner.call(context.Background(), http.MethodPatch, fmt.Sprintf("/jobs/%d/trace", s.spec.ID), header, piece)
		if err != nil {
			return 0, err
		} else if resp.StatusCode != http.StatusAccepted {
			return 0, fmt.Errorf("send the log: %s", resp.Status)
		}
		s.sent += len(piece)
	}
	return len(b), nil
}

// inContainer does what the job says: checkout, pull with the job's credentials, and the script beside the socket.
func (r *smallRunner) inContainer(ctx context.Context, spec *job.Spec, log io.Writer) error {
	dir := r.t.TempDir()
	login := client{r.t, r.t.TempDir()}
	image := spec.Variables.Expand(spec.Image.Name)
	for _, c := range spec.Credentials {
		if out, err := login.run(c.Password.Reveal(), "login", "-u", c.Username, "--password-stdin", c.URL); err != nil {
			return fmt.Errorf("log in: %w\n%s", err, out)
		}
	}
	if out, err := login.run("", "pull", "--quiet", image); err != nil {
		return fmt.Errorf("pull: %w\n%s", err, out)
	}
	for _, args := range [][]string{{"clone", "--quiet", spec.GitInfo.RepoURL, "."}, {"checkout", "--quiet", spec.GitInfo.SHA}} {
		if err := git(ctx, dir, args...); err != nil {
			return err
		}
	}
	name := fmt.Sprintf("slipway-test-demo-%d-%d", os.Getpid(), spec.ID)
	args := []string{"run", "--rm", "--init", "--network", "none", "--name", name, "--interactive", "-v", "/var/run/docker.sock:/var/run/docker.sock", "-v", dir + ":/work", "-w", "/work"}
	for _, v := range spec.Variables {
		args = append(args, "-e", v.Key+"="+v.Value)
	}
	step, _ := spec.Step("script")
	cmd := exec.CommandContext(ctx, "docker", append(args, image, "sh", "-e")...)
	cmd.Cancel = func() error {
		return exec.Command("docker", "kill", name).Run()
	}
	cmd.Stdin = strings.NewReader(strings.Join(step.Script, "\n") + "\n")
	cmd.Stdout, cmd.Stderr = log, log
	return cmd.Run()
}
