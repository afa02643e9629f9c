package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var obtained = time.Date(2026, 11, 23, 14, 38, 5, 123456, time.FixedZone("", 3600))

// registered is what slipway register would add.
func registered() *Runner {
	return &Runner{
		Name: `the "new" one`, URL: "https://gitlab.example.com", ID: 9, Token: "glrt-new", TokenObtainedAt: obtained,
		Executor: "docker", Environment: []string{"A=1", "B=2"}, FeatureFlags: map[string]bool{"FF_TIMESTAMPS": false},
		Docker: &Docker{Image: "alpine:latest", Volumes: []string{"/cache"}, PullPolicy: StringList{"always"}, Memory: 512 << 20, CPUs: 1.5e9},
	}
}

const registeredText = `[[runners]]
  name = "the \"new\" one"
  url = "https://gitlab.example.com"
  id = 9
  token = "glrt-new"
  token_obtained_at = 2026-11-23T13:38:05Z
  token_expires_at = 0001-01-01T00:00:00Z
  executor = "docker"
  environment = ["A=1", "B=2"]
  [runners.feature_flags]
    FF_TIMESTAMPS = false
  [runners.docker]
    tls_verify = false
    image = "alpine:latest"
    memory = "512m"
    cpus = "1.5"
    privileged = false
    disable_entrypoint_overwrite = false
    oom_kill_disable = false
    disable_cache = false
    volumes = ["/cache"]
    pull_policy = ["always"]
    shm_size = 0
    network_mtu = 0
`

func TestAddRunner(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, src, want string }{
		{"new file", "", head + "\n" + registeredText},
		{"after another", ok, ok + "\n" + registeredText},
		{"comments only", "# mine\n", "# mine\n\n" + registeredText},
		{"no newline at the end", "concurrent = 2 # two", "concurrent = 2 # two\n\n" + registeredText},
		{"empty lines at the end", "concurrent = 2\n\n\n", "concurrent = 2\n\n\n\n" + registeredText},
		{"Windows", "concurrent = 2\r\n", "concurrent = 2\r\n\r\n" + strings.ReplaceAll(registeredText, "\n", "\r\n")},
		{"unknown keys", "[x.y]\nz = 1\n[[runners]]\n", "[x.y]\nz = 1\n[[runners]]\n\n" + registeredText},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := addRunner("f", []byte(c.src), registered())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("is loaded as it was", func(t *testing.T) {
		t.Parallel()
		text, err := addRunner("f", nil, registered())
		if err != nil {
			t.Fatal(err)
		}
		cfg, warnings, err := Parse("f", text, noEnv)
		if err != nil || warnings != nil {
			t.Fatal(lines(warnings), err)
		}
		want := registered()
		want.TokenObtainedAt = want.TokenObtainedAt.Truncate(time.Second)
		want.Pos = Position{"f", 9}
		want.defaults()
		want.dockerDefaults()
		if diff := cmp.Diff(want, cfg.Runners[0]); diff != "" {
			t.Error(diff)
		}
	})
}

// Every field comes back as it was written: none lacks its tag or is written in another way than it is read.
func TestWrittenAsRead(t *testing.T) {
	t.Parallel()
	vars := env(map[string]string{"GITLAB_HOST": "gitlab.example.com", "RUNNER_TOKEN": "glrt-secret"})
	cfg, _, err := Parse("f", testdata(t, "full.toml"), vars)
	if err != nil {
		t.Fatal(err)
	}
	text, err := addRunner("g", nil, cfg.Runners[0])
	if err != nil {
		t.Fatal(err)
	}
	again, warnings, err := Parse("g", text, noEnv)
	if err != nil || warnings != nil {
		t.Fatal(lines(warnings), err)
	}
	if diff := cmp.Diff(cfg.Runners[0], again.Runners[0], cmpopts.IgnoreFields(Runner{}, "Pos")); diff != "" {
		t.Error(diff)
	}
}

// runner is a runner's table with the given token.
func runner(token string) string {
	return fmt.Sprintf("[[runners]]\n  url = \"u\"\n  token = %q\n", token)
}

func TestRemoveRunner(t *testing.T) {
	t.Parallel()
	a, b, c := runner("a"), runner("b"), runner("c")
	docker := "  [runners.docker]\n    image = \"i\" # the image\n    [[runners.docker.services]]\n      name = \"s\"\n"
	for _, tc := range []struct{ name, src, want string }{
		{"the only one", "concurrent = 1\n\n" + b, "concurrent = 1\n"},
		{"the whole file", b + docker, ""},
		{"the first", b + docker + "\n" + a, a},
		{"in between", a + "\n" + b + docker + "\n" + c, a + "\n" + c},
		{"without empty lines", a + b + c, a + c},
		{"the last", a + docker + "\n" + b, a + docker},
		{"no newline at the end", a + "\n" + strings.TrimSuffix(b, "\n"), a},
		{"twice", b + "\n" + a + "\n" + b, a},
		{"its comments", "# file\n\n# of a\n" + a + "\n# of b\n  # more of b\n" + b + "  # limit = 1\n\n# of c\n" + c, "# file\n\n# of a\n" + a + "\n# of c\n" + c},
		{"comments between its tables", b + "\n  # docker\n\n" + docker + "\n# of a\n" + a, "# of a\n" + a},
		{"comments that stand alone", a + "\n" + b + "\n# aside\n\n" + c, a + "\n# aside\n\n" + c},
		{"comment without space above the next", b + "# of a\n" + a, "# of a\n" + a},
		{"comment at the end", a + "\n" + b + "\n# end\n", a + "\n# end\n"},
		{"its tables apart", b + "\n[session_server]\n  session_timeout = 1\n\n" + docker + "\n" + a, "[session_server]\n  session_timeout = 1\n\n" + a},
		{"what looks like tables", "x = '''\n# no comment'''\n" + b + "  pre_build_script = \"\"\"\n\n[[runners]]\ntoken = 1\n# no\n\"\"\"\n" + a, "x = '''\n# no comment'''\n" + a},
		{"the end of a string above", a + "  x = '''\n# no comment'''\n" + b + c, a + "  x = '''\n# no comment'''\n" + c},
		{"a list over lines", b + "  environment = [\n    # one\n    \"A=1\",\n\n  ]\n\n" + a, a},
		{
			"Windows", strings.ReplaceAll(a+"\n# of b\n"+b+docker+"\n"+c, "\n", "\r\n"),
			strings.ReplaceAll(a+"\n"+c, "\n", "\r\n"),
		},
		{"byte order mark", "\xef\xbb\xbf" + b + "\n" + a, "\xef\xbb\xbf" + a},
		{"any case", strings.ReplaceAll(b, "runners", "Runners") + "[Runners.docker]\n\n[x]\n", "[x]\n"},
		{"headers with spaces and comments", "  [[ runners ]] # b\n url='u'\n token='b'\n[ \"runners\" . docker ]\n\n" + a, a},
		{"dotted keys", "[[runners]]\nurl = 'u'\ntoken = 'b'\ndocker.image = 'i'\n" + a, a},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := removeRunner("f", []byte(tc.src), &Runner{URL: "u", Token: "b"}, noEnv)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSetCredentials(t *testing.T) {
	t.Parallel()
	to := Credentials{ID: 7, Token: `new"1`, ObtainedAt: obtained, ExpiresAt: obtained.AddDate(0, 1, 0)}
	const dates = "token_obtained_at = 2026-11-23T13:38:05Z\n"
	for _, c := range []struct{ name, src, want string }{
		{
			"all there", "[[runners]]\n  id   = 1  # one\n\ttoken='b' # secret\n  url = \"u\"\ntoken_expires_at=0001-01-01T00:00:00Z#never\n" + dates + runner("a"),
			"[[runners]]\n  id   = 7  # one\n\ttoken=\"new\\\"1\" # secret\n  url = \"u\"\ntoken_expires_at=2026-12-23T13:38:05Z#never\n" + dates + runner("a"),
		},
		{
			"only the token", runner("a") + "\n# b\n" + runner("b") + "  # end\n\n" + runner("c"),
			runner("a") + "\n# b\n[[runners]]\n  url = \"u\"\n  id = 7\n  token = \"new\\\"1\"\n  " + dates + "  token_expires_at = 2026-12-23T13:38:05Z\n  # end\n\n" + runner("c"),
		},
		{
			"no newline at the end", "[[runners]]\nurl = 'u'\ntoken = '''b'''",
			"[[runners]]\nurl = 'u'\nid = 7\ntoken = \"new\\\"1\"\n" + dates + "token_expires_at = 2026-12-23T13:38:05Z",
		},
		{
			"Windows", "[[runners]]\r\nurl = 'u'\r\ntoken = 'b'\r\nid = 1\r\n",
			"[[runners]]\r\nurl = 'u'\r\ntoken = \"new\\\"1\"\r\ntoken_obtained_at = 2026-11-23T13:38:05Z\r\ntoken_expires_at = 2026-12-23T13:38:05Z\r\nid = 7\r\n",
		},
		{
			"inline", "runners = [{url = 'u', token = 'b', id = 1, token_expires_at = 2026-01-01T00:00:00Z, token_obtained_at = 2026-01-01T00:00:00Z}]",
			"runners = [{url = 'u', token = \"new\\\"1\", id = 7, token_expires_at = 2026-12-23T13:38:05Z, token_obtained_at = 2026-11-23T13:38:05Z}]",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := setCredentials("f", []byte(c.src), &Runner{URL: "u", Token: "b"}, to, noEnv)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEditsThatAreRefused(t *testing.T) {
	t.Parallel()
	r := &Runner{Name: "n", URL: "u", Token: "b"}
	add := func(src string) error { _, err := addRunner("f", []byte(src), r); return err }
	remove := func(src string) error { _, err := removeRunner("f", []byte(src), r, noEnv); return err }
	set := func(src string) error {
		_, err := setCredentials("f", []byte(src), r, Credentials{Token: "x"}, env(map[string]string{"T": "b"}))
		return err
	}
	const byHand = "f: is laid out in a way that cannot be changed by itself (edit the file by hand)"
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"add to broken TOML", add("a\n"), "f:1: no = after the key (write key = value)"},
		{"add to an inline list", add("runners = []\n"), byHand},
		{"add to a table", add("[runners]\n"), byHand},
		{"remove from broken TOML", remove("x =\n"), "f:1: x: is no TOML value (put text in quotes: x = \"…\")"},
		{"remove what is not there", remove(runner("a")), `f: runners: has no runner "n" with this address and token (slipway list shows those it has)`},
		{"remove from an inline list", remove("runners = [{url = 'u', token = 'b'}]"), byHand},
		{"set what is not there", set(""), `f: runners: has no runner "n" with this address and token (slipway list shows those it has)`},
		{"set in an inline list without the keys", set("runners = [{url = 'u', token = 'b'}]"), byHand},
		{"set a variable", set("\n[[runners]]\nurl = 'u'\ntoken = \"$T\"\n"), "f:4: runners.token: comes from a variable of the environment (set the new token there)"},
	} {
		if c.err == nil || c.err.Error() != c.want {
			t.Errorf("%s: %v", c.name, c.err)
		}
	}
	if err := remove(""); !errors.Is(err, ErrNoRunner) {
		t.Errorf("%v is not ErrNoRunner", err)
	}
	if _, err := removeRunner("f", []byte(runner("")), &Runner{URL: "u"}, noEnv); !errors.Is(err, ErrNoRunner) {
		t.Errorf("a runner without a token matched: %v", err)
	}
}

// part is a piece of a file; owner is the token of the runner that it belongs to.
type part struct{ owner, text string }

// drawFile makes a file of runners and other tables with every nasty thing in and between them.
func drawFile(t *rapid.T) []part {
	n := 0
	unique := func() int { n++; return n }
	values := []string{
		`"x # y"`, "'''\n[[runners]]\n# no\n'''", "\"\"\"\n\n  token = 'b'\n\\\"\"\"\"\"", "[\n  1, # one\n\n  [2],\n]", "{ a = 1, b = '}' }",
		"1979-05-27 07:32:00", "true", "[ '#', \"]\" ]", `""`,
	}
	keys := func(owner, indent string) (ps []part) {
		for range rapid.IntRange(0, 3).Draw(t, "keys") {
			text := fmt.Sprintf("%sk%d = %s", indent, unique(), rapid.SampledFrom(values).Draw(t, "value"))
			text += rapid.SampledFrom([]string{"", " # same line", "\t"}).Draw(t, "tail") + "\n"
			ps = append(ps, part{owner, text})
			if rapid.IntRange(0, 3).Draw(t, "gap") == 0 {
				ps = append(ps, part{owner, rapid.SampledFrom([]string{"\n", " \t\n", fmt.Sprintf("%s# c%d\n%sk%d = 1\n", indent, unique(), indent, unique())}).Draw(t, "gap text")})
			}
		}
		return ps
	}
	free := func(last string) (ps []part) {
		switch rapid.IntRange(0, 3).Draw(t, "between") {
		case 1:
			ps = append(ps, part{"", "\n"})
		case 2:
			ps = append(ps, part{"", fmt.Sprintf("\n# aside%d\n\n", unique())})
		case 3:
			ps = append(ps, part{last, fmt.Sprintf("  k%d = 1\n  # below%d\n", unique(), unique())}, part{"", "\n"})
		}
		return ps
	}
	ps := keys("", "")
	last := ""
	for i := range rapid.IntRange(1, 5).Draw(t, "tables") {
		ps = append(ps, free(last)...)
		if rapid.IntRange(0, 2).Draw(t, "kind") == 0 {
			last = ""
			ps = append(ps, part{"", fmt.Sprintf("[t%d.x]\n", unique())})
			ps = append(ps, keys("", "  ")...)
			continue
		}
		last = fmt.Sprintf("token%d", i)
		if rapid.Bool().Draw(t, "comment above") {
			ps = append(ps, part{last, fmt.Sprintf("# above%d\n", unique())})
		}
		ps = append(ps, part{last, fmt.Sprintf("[[runners]]\n  url = \"u\"\n  token = %q\n", last)})
		ps = append(ps, keys(last, "  ")...)
		for _, sub := range []string{"docker", "docker.sysctls", "cache"} {
			if rapid.Bool().Draw(t, sub) {
				ps = append(ps, part{last, fmt.Sprintf("  [runners.%s] # s%d\n", sub, unique())})
				ps = append(ps, keys(last, "    ")...)
			}
		}
	}
	if rapid.Bool().Draw(t, "Windows") {
		for i := range ps {
			ps[i].text = strings.ReplaceAll(ps[i].text, "\n", "\r\n")
		}
	}
	return ps
}

func join(ps []part, but string) string {
	var b strings.Builder
	for _, p := range ps {
		if but == "" || p.owner != but {
			b.WriteString(p.text)
		}
	}
	return b.String()
}

// full gives the lines that are not empty.
func full(s string) []string {
	return slices.DeleteFunc(slices.Collect(strings.Lines(s)), func(l string) bool { return strings.TrimSpace(l) == "" })
}

func owners(ps []part) []string {
	set := map[string]bool{}
	for _, p := range ps {
		set[p.owner] = true
	}
	delete(set, "")
	return slices.Sorted(maps.Keys(set))
}

func TestRemoveLosesNothingElse(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ps := drawFile(t)
		for _, token := range owners(ps) {
			src := join(ps, "")
			got, err := removeRunner("f", []byte(src), &Runner{URL: "u", Token: Secret(token)}, noEnv)
			if err != nil {
				t.Fatalf("%s of\n%s\n%v", token, src, err)
			}
			if diff := cmp.Diff(full(join(ps, token)), full(string(got)), cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("%s of\n%s\nwant (-), got (+):\n%s", token, src, diff)
			}
			if n := strings.Count(src, "\n") - strings.Count(string(got), "\n"); n > strings.Count(ownText(ps, token), "\n")+3 {
				t.Fatalf("%s of\n%s\ntook %d lines:\n%s", token, src, n, got)
			}
		}
	})
}

func ownText(ps []part, owner string) string {
	var b strings.Builder
	for _, p := range ps {
		if p.owner == owner {
			b.WriteString(p.text)
		}
	}
	return b.String()
}

func TestSetChangesOneTableOnly(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ps := drawFile(t)
		for _, token := range owners(ps) {
			src := join(ps, "")
			to := Credentials{ID: 5, Token: Secret(rapid.StringMatching(`[ -~]{1,20}`).Draw(t, "token")), ObtainedAt: obtained}
			if strings.Contains(to.Token.Reveal(), "$") {
				continue
			}
			got, err := setCredentials("f", []byte(src), &Runner{URL: "u", Token: Secret(token)}, to, noEnv)
			if err != nil {
				t.Fatalf("%s of\n%s\n%v", token, src, err)
			}
			// Without the added lines, and with the token as it was, it is the old text.
			var back strings.Builder
			for line := range strings.Lines(string(got)) {
				line = strings.Replace(line, fmt.Sprintf("  token = %s", quoted(to.Token)), fmt.Sprintf("  token = %q", token), 1)
				if !strings.HasPrefix(line, "  id = 5") && !strings.HasPrefix(line, "  token_") {
					back.WriteString(line)
				}
			}
			if diff := cmp.Diff(src, back.String()); diff != "" {
				t.Fatalf("%s of\n%s\n%s", token, src, diff)
			}
		}
	})
}

func quoted(s Secret) string {
	lits, err := literals(Credentials{Token: s})
	if err != nil {
		return err.Error()
	}
	return lits[1].text
}

func TestAddThenRemoveIsNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		src := join(drawFile(t), "")
		addAndRemove(t, src)
	})
}

func addAndRemove(t interface{ Fatalf(string, ...any) }, src string) {
	added, err := addRunner("f", []byte(src), registered())
	if err != nil {
		return
	}
	if src != "" && !strings.HasPrefix(string(added), src) {
		t.Fatalf("%q became %q", src, added)
	}
	removed, err := removeRunner("f", added, registered(), noEnv)
	if err != nil {
		t.Fatalf("remove from %q: %v", added, err)
	}
	want := src
	if src == "" {
		want = head
	} else if !strings.HasSuffix(src, "\n") {
		want += lineBreak([]byte(src))
	}
	if string(removed) != want {
		t.Fatalf("%q became %q and then %q", src, added, removed)
	}
}

func FuzzEdit(f *testing.F) {
	for _, src := range texts {
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, src string) {
		if strings.Contains(src, "nan") {
			t.Skip("not equal to itself")
		}
		addAndRemove(t, src)
	})
}
