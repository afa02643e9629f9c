package internal_test

import (
	"bufio"
	"encoding/json"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/slipway-ci/slipway"

// homes are the packages that may import a third-party module: one each, so that replacing one changes one package.
// moby's API types have two by design, BuildKit's four. Tests may import what they like of the test-only ones.
var homes = map[string][]string{
	"github.com/BurntSushi/toml":             {"config"},
	"github.com/bmatcuk/doublestar/v4":       {"executor", "archive", "config"}, // the globs of .gitlab-ci.yml and config.toml
	"github.com/coder/websocket":             {"terminal"},
	"github.com/containerd/errdefs":          {"docker"},
	"github.com/creack/pty":                  {"executor"},
	"github.com/distribution/reference":      {"docker", "guard", "ledger", "dockerfile", "executor", "tarball"}, // the Engine's own grammar of names
	"github.com/docker/cli":                  {"docker"},
	"github.com/docker/go-units":             {"config", "disk", "docker", "executor", "layercache", "source"},
	"github.com/google/go-containerregistry": {"demo"},
	"github.com/google/uuid":                 {"gitlab"},
	"github.com/klauspost/compress":          {"archive", "tarball"},
	"github.com/klauspost/readahead":         {"guard"},
	"github.com/minio/minio-go/v7":           {"objects"},
	"github.com/moby/buildkit":               {"guard", "dockerfile", "progress", "session"},
	"github.com/moby/moby/api":               {"docker", "guard"},
	"github.com/moby/moby/client":            {"docker"},
	"github.com/moby/sys/user":               {"docker"},
	"github.com/opencontainers/image-spec":   {"docker"},
	"github.com/prometheus/client_golang":    {"web"},
	"github.com/coreos/go-systemd/v22":       {"cli"},
	"github.com/spf13/cobra":                 {"cli"},
	"github.com/spf13/pflag":                 {"cli"},
	"github.com/tonistiigi/fsutil":           {"session"},
	"go.yaml.in/yaml/v3":                     {"pipeline"},
	"golang.org/x/net":                       {"guard"},
	"google.golang.org/grpc":                 {"guard", "session", "mishap", "docker"}, // docker asks containerd one thing
	"google.golang.org/protobuf":             {"guard", "progress", "session", "docker"},
	"golang.org/x/term":                      {"cli"},
	"golang.org/x/sys":                       nil, // the kernel: everywhere
	"golang.org/x/sync":                      nil,
}

// TestArrows holds the imports of the code against the table of ARCHITECTURE.md, both ways: no arrow that the table
// does not have, no row without a package.
func TestArrows(t *testing.T) {
	table := readTable(t)
	packages := listPackages(t)
	for name, imports := range packages {
		allowed, ok := table[name]
		if !ok {
			t.Errorf("package %s is not in ARCHITECTURE.md", name)
			continue
		}
		for _, i := range imports {
			own, internal := strings.CutPrefix(i, module+"/internal/")
			switch {
			case internal && allowed[0] != "all" && !slices.Contains(allowed, own):
				t.Errorf("%s imports %s; ARCHITECTURE.md allows it %v", name, own, allowed)
			case !internal && strings.Contains(strings.SplitN(i, "/", 2)[0], "."):
				checkHome(t, name, i)
			}
		}
	}
	for name := range table {
		if _, ok := packages[name]; !ok {
			t.Errorf("ARCHITECTURE.md has a row for %s, which does not exist", name)
		}
	}
}

func checkHome(t *testing.T, name, path string) {
	t.Helper()
	for _, m := range slices.Sorted(maps.Keys(homes)) {
		if path == m || strings.HasPrefix(path, m+"/") {
			if homes[m] != nil && !slices.Contains(homes[m], name) {
				t.Errorf("%s imports %s, whose home is %v", name, path, homes[m])
			}
			return
		}
	}
	t.Errorf("%s imports %s, which has no home: add it to this test and say why in the commit", name, path)
}

// TestGuardsMap holds the package comment of guard, which says what is in which file, against the folder, both ways.
func TestGuardsMap(t *testing.T) {
	files, err := filepath.Glob("guard/*.go")
	if err != nil {
		t.Fatal(err)
	}
	files = slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, "_test.go") || f == "guard/doc.go" })
	text, err := os.ReadFile("guard/doc.go")
	if err != nil {
		t.Fatal(err)
	}
	told := regexp.MustCompile(`[a-z_]+\*?\.go`).FindAllString(string(text), -1)
	is := func(pattern, file string) bool {
		ok, err := filepath.Match("guard/"+pattern, file)
		return ok && err == nil
	}
	for _, f := range files {
		if !slices.ContainsFunc(told, func(pattern string) bool { return is(pattern, f) }) {
			t.Errorf("guard/doc.go does not say what is in %s", f)
		}
	}
	for _, pattern := range told {
		if !slices.ContainsFunc(files, func(f string) bool { return is(pattern, f) }) {
			t.Errorf("guard/doc.go tells of %s, which is not there", pattern)
		}
	}
}

// readTable reads the rows "| `name` | duty | imports |".
func readTable(t *testing.T) map[string][]string {
	t.Helper()
	f, err := os.Open("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	row := regexp.MustCompile("^\\| `([a-z]+)` \\| .* \\| (.*) \\|$")
	table := map[string][]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		if m := row.FindStringSubmatch(s.Text()); m != nil {
			table[m[1]] = append(strings.Fields(m[2]), "")
		}
	}
	if len(table) == 0 {
		t.Fatal("ARCHITECTURE.md has no table of packages")
	}
	return table
}

// listPackages maps each package below internal to what it imports, tests aside.
func listPackages(t *testing.T) map[string][]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,GoFiles", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	packages := map[string][]string{}
	for dec := json.NewDecoder(out); ; {
		var p struct {
			ImportPath       string
			Imports, GoFiles []string
		}
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if name, ok := strings.CutPrefix(p.ImportPath, module+"/internal/"); ok && len(p.GoFiles) > 0 {
			packages[name] = p.Imports
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return packages
}
