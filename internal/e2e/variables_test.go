package e2e

import (
	"encoding/pem"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/job"
)

// showVars prints variables as the job's processes see them.
func showVars(names ...string) string {
	var b strings.Builder
	for _, n := range names {
		fmt.Fprintf(&b, `printf '%s=[%%s]\n' "${%s-unset}";`, n, n)
	}
	return b.String()
}

// sees runs a job that has these variables to show, each with the value wanted.
func (r *rig) sees(s *job.Spec, want map[string]string) {
	r.t.Helper()
	var names []string
	for n := range want {
		names = append(names, n)
	}
	s.Steps[0].Script = append(s.Steps[0].Script, showVars(names...))
	log := r.must(job.Success, s)
	for n, v := range want {
		wants(r.t, log, fmt.Sprintf("%s=[%s]\n", n, v))
	}
}

func TestVariables(t *testing.T) {
	t.Parallel()
	ca := certificate(t)
	r := newRig(t, runnerKeys(fmt.Sprintf(`tls-ca-file = %q
  environment = ["RUNNER=runner $CI_PROJECT_NAME", "BOTH=runner", "CI_BUILDS_DIR=runner"]`, ca)))
	t.Run("of the runner", func(t *testing.T) { r.in(t).variablesOfTheRunner(ca) })
	t.Run("order and expansion", func(t *testing.T) { r.in(t).orderAndExpansion() })
	t.Run("of jobs side by side", func(t *testing.T) { r.in(t).concurrentIDs() })
	t.Run("files", func(t *testing.T) { r.in(t).fileVariables() })
	t.Run("too large", func(t *testing.T) {
		s := withVariables(spec("echo never"), "LARGE", strings.Repeat("x", 200_000))
		log := r.in(t).fails(job.ConfigurationError, 0, s)
		wants(t, log, "ERROR: Job failed: variable LARGE has 200000 bytes, too many for the environment", "Hint: make it a file variable (type File)")
		lacks(t, log, "xxxx")
	})
	t.Run("from script to after_script", func(t *testing.T) {
		s := withAfter(spec(`printf 'LATER=it is $HOME\nnot-a-name=1\n9=2\n\nCI_JOB_STATUS=mine\nLAST=a=b\n' >>$GITLAB_ENV`),
			showVars("LATER", "LAST", "CI_JOB_STATUS"))
		wants(t, r.in(t).must(job.Success, s), "LATER=[it is $HOME]\nLAST=[a=b]\nCI_JOB_STATUS=[success]\n")
	})
}

func (r *rig) variablesOfTheRunner(ca string) {
	content, _ := os.ReadFile(ca)
	r.sees(withImage(spec("pwd", "cmp $CI_SERVER_TLS_CA_FILE - <<EOF\n"+string(content)+"EOF"), alpine), map[string]string{
		"CI_PROJECT_DIR": "/builds/group/demo", "CI_BUILDS_DIR": "/builds", "PWD": "/builds/group/demo",
		"RUNNER_TEMP_PROJECT_DIR": "/builds/group/demo.tmp", "GITLAB_ENV": "/builds/group/demo.tmp/gitlab_runner_env",
		"CI_SERVER_TLS_CA_FILE": "/builds/group/demo.tmp/CI_SERVER_TLS_CA_FILE", "CI_SERVER_TLS_KEY_FILE": "unset",
		"CI_CONCURRENT_ID": "0", "CI_CONCURRENT_PROJECT_ID": "0",
		"CI_JOB_STATUS": "running", "CI_JOB_TIMEOUT": "3600", "CI_JOB_IMAGE": alpine,
		"CI_SERVER": "yes", "CI_RUNNER_SHORT_TOKEN": r.token.Short(),
		"CI_RUNNER_VERSION": "test", "CI_RUNNER_REVISION": "test", "CI_RUNNER_EXECUTABLE_ARCH": "linux/" + runtime.GOARCH,
		"CI_DISPOSABLE_ENVIRONMENT": "true", "CI_SHARED_ENVIRONMENT": "unset",
		"FF_TIMESTAMPS": "true", "FF_MASK_ALL_DEFAULT_TOKENS": "true", "FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR": "false",
		"GIT_TERMINAL_PROMPT": "unset",
	})
	r.sees(spec("echo without image:"), map[string]string{"CI_JOB_IMAGE": "unset"})
}

// orderAndExpansion: the last of a name wins, and every value is expanded once.
func (r *rig) orderAndExpansion() {
	s := withVariables(spec("test ${#LONG} = 100000"),
		"BOTH", "job", "TWICE", "first", "TWICE", "second",
		"CI_JOB_TIMEOUT", "job", "CI_RUNNER_VERSION", "job", "RUNNER_TEMP_PROJECT_DIR", "job", "CI_DISPOSABLE_ENVIRONMENT", "job",
		"A", "1", "REFERS", "$A and ${A}", "ONCE", "$REFERS", "LATER", "$LAST", "LAST", "last",
		"UNKNOWN", "${NO_SUCH}x", "DOLLAR", "$$A $$$$", "SPECIAL", "a$1b$@c$*d", "PATHS", "$RUNNER_TEMP_PROJECT_DIR/$CI_PROJECT_DIR",
		"LINES", "one\n  two\n", "SIGNS", `it's "a" \n %s é`+"\t`true` $(true) *", "EMPTY", "",
		"FILE", "$CERT", "LONG", strings.Repeat("x", 100_000),
	)
	s.Variables = append(s.Variables,
		job.Variable{Key: "RAW", Value: "$A ${B} $$", Raw: true},
		job.Variable{Key: "CERT", Value: "a file of $A\n", File: true},
		job.Variable{Key: "OF_RAW", Value: "$RAW"},
	)
	r.sees(s, map[string]string{
		"RUNNER": "runner demo", "BOTH": "job", "TWICE": "second", "CI_BUILDS_DIR": "/builds",
		// GitLab: a job may set what the runner defaults, but not what says where it runs.
		"CI_JOB_TIMEOUT": "job", "CI_RUNNER_VERSION": "test", "RUNNER_TEMP_PROJECT_DIR": "/builds/group/demo.tmp", "CI_DISPOSABLE_ENVIRONMENT": "true",
		"REFERS": "1 and 1", "ONCE": "$A and ${A}", "LATER": "last", "UNKNOWN": "x", "DOLLAR": "$A $$", "SPECIAL": "abcd",
		"PATHS": "/builds/group/demo.tmp//builds/group/demo",
		"LINES": "one\n  two\n", "SIGNS": `it's "a" \n %s é` + "\t`true` $(true) *", "EMPTY": "",
		"CERT": "/builds/group/demo.tmp/CERT", "FILE": "/builds/group/demo.tmp/CERT",
		"RAW": "$A ${B} $$", "OF_RAW": "$A ${B} $$",
	})
}

// concurrentIDs: jobs beside each other are told apart, those of other projects too.
func (r *rig) concurrentIDs() {
	t := r.t
	ids := showVars("CI_CONCURRENT_ID", "CI_CONCURRENT_PROJECT_ID")
	first := r.enqueue(spec("echo here; until test -f go; do sleep 0.1; done"))
	r.until(first, "\nhere\n")
	other := spec(ids)
	other.JobInfo.ProjectID, other.JobInfo.ProjectFullPath = 8, "group/other"
	wants(t, r.must(job.Success, other), "CI_CONCURRENT_ID=[1]\nCI_CONCURRENT_PROJECT_ID=[0]\n")
	wants(t, r.must(job.Success, spec(ids, "test ! -f go")), "CI_CONCURRENT_ID=[1]\nCI_CONCURRENT_PROJECT_ID=[1]\n")
	c := r.containers(first)
	// The name says nothing that a neighbour could guess.
	if len(c) != 1 || !regexp.MustCompile(`^runner-[\w.-]+-project-7-concurrent-0-[0-9a-f]{16}-build$`).MatchString(c[0].Name) {
		t.Fatalf("the first job has the containers %v", c)
	}
	if code, out, err := r.engine.Exec(t.Context(), c[0].ID, "", "touch", "/builds/group/demo/go"); err != nil || code != 0 {
		t.Fatal(code, out, err)
	}
	if o, log := r.end(first); o.State != job.Success {
		t.Errorf("job ended as %+v:\n%s", o, log)
	}
}

// fileVariables: every user of the container can read them, and nobody on the host once the job is over.
func (r *rig) fileVariables() {
	t := r.t
	const secret = "content that stays nowhere"
	big := strings.Repeat("0123456789", 20_000)
	for _, user := range []string{"", "1000"} {
		s := withAfter(spec(`test "$(cat $NOTE)" = "$EXPECTED" && echo as expected`, `wc -c <$BIG; stat -c 'mode %a' $NOTE`, `echo 'more' >>$NOTE`),
			"tail -n 1 $NOTE")
		s.Image.ExecutorOpts.Docker.User = job.User(user)
		s.Variables = job.Variables{
			{Key: "EXPECTED", Value: secret + "\nand 'more' $$x", Masked: false},
			{Key: "NOTE", Value: secret + "\nand 'more' $$x\n", File: true},
			{Key: "BIG", Value: big, File: true},
		}
		log := r.must(job.Success, s)
		wants(t, log, "\nas expected\n", "\n200000\n", "\nmode 666\n", "\nmore\n")
	}
	// The server has a job's end before the runner has removed its log.
	r.eventually("the last job's log is removed", func() bool {
		left, err := os.ReadDir(filepath.Join(r.stateDir(), "jobs"))
		return err == nil && len(left) == 0
	})
	err := filepath.WalkDir(r.stateDir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return unlessGone(err)
		}
		content, err := os.ReadFile(path)
		if strings.Contains(string(content), secret) {
			t.Errorf("%s still has the content of a file variable", path)
		}
		return unlessGone(err)
	})
	if err != nil {
		t.Error(err)
	}
}

// certificate is a file with some certificate.
func certificate(t *testing.T) string {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	path := filepath.Join(t.TempDir(), "ca.pem")
	block := &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
