package cli

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
)

// TestMain lets the test binary be the programs that the scripts call.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"slipway": func() {
			a := &app{
				stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, build: Build{Version: "1.2.3", Revision: "abc1234"},
				// Never the machine's own /etc, whoever runs the tests.
				host: host{home: os.Getenv("HOME"), proc: "/proc"},
			}
			os.Exit(a.main(context.Background(), os.Args[1:]))
		},
		// A GitLab runner to stumble over: it shows its command line until it is killed.
		"gitlab-runner": func() { time.Sleep(time.Hour) },
	})
}

// TestScripts runs testdata/*.txtar: what each command prints for whom, and every error text. The server is a real
// coordinator:
//
//	coordinator [registration-token]   starts one, its address is $URL
//	runner token [description]         makes a runner known to it
//	fault endpoint status [times]      makes an endpoint answer so; times -1 = always
//	runners                            prints the runners it knows
//	managers token                     prints the machines that use a runner's token
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			home := filepath.Join(e.WorkDir, "home")
			e.Setenv("HOME", home)
			e.Values[key{}] = &holder{}
			return os.Mkdir(home, 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"coordinator": startCoordinator,
			"runner": func(ts *testscript.TestScript, _ bool, args []string) {
				of(ts).AddRunner(coordinator.Runner{Token: job.Secret(args[0]), Description: strings.Join(args[1:], " ")})
			},
			"fault":    injectFault,
			"runners":  printRunners,
			"managers": printManagers,
		},
		Condition: func(name string) (bool, error) {
			if name != "engine" {
				return false, fmt.Errorf("unknown condition %s", name)
			}
			e, err := docker.Connect(context.Background(), docker.Options{})
			if err == nil {
				e.Close()
			} else if os.Getenv("SLIPWAY_NEED_ENGINE") == "1" {
				return false, err
			}
			return err == nil, nil
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// key of a script's coordinator among the script's values.
type key struct{}

func of(ts *testscript.TestScript) *coordinator.Coordinator {
	c, ok := ts.Value(key{}).(*holder)
	if !ok || c.coordinator == nil {
		ts.Fatalf("start a coordinator first")
	}
	return c.coordinator
}

type holder struct{ coordinator *coordinator.Coordinator }

func startCoordinator(ts *testscript.TestScript, _ bool, args []string) {
	o := coordinator.Options{LongPoll: -1}
	if len(args) > 0 {
		o.RegistrationToken = args[0]
	}
	if len(args) > 1 {
		o.PersonalToken = args[1]
	}
	c := coordinator.New(o)
	srv := httptest.NewServer(c)
	ts.Defer(srv.Close)
	ts.Defer(c.Close)
	ts.Setenv("URL", srv.URL)
	ts.Value(key{}).(*holder).coordinator = c
}

func injectFault(ts *testscript.TestScript, _ bool, args []string) {
	status, err := strconv.Atoi(args[1])
	ts.Check(err)
	f := coordinator.Fault{Endpoint: coordinator.Endpoint(args[0]), Status: status}
	if len(args) > 2 {
		f.Times, err = strconv.Atoi(args[2])
		ts.Check(err)
	}
	of(ts).Inject(f)
}

func printRunners(ts *testscript.TestScript, _ bool, _ []string) {
	for _, r := range of(ts).Runners() {
		fmt.Fprintf(ts.Stdout(), "description=%s tags=%s untagged=%t\n", r.Description, strings.Join(r.Tags, ","), r.RunUntagged)
	}
}

func printManagers(ts *testscript.TestScript, _ bool, args []string) {
	for _, m := range of(ts).Managers(job.Secret(args[0])) {
		fmt.Fprintf(ts.Stdout(), "%s %s %s\n", m.Info.Name, m.Info.Version, m.Info.Executor)
	}
}
