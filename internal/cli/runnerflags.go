package cli

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/slipway-ci/slipway/internal/config"
)

// keyFlag is the flag and the variable for a key of [[runners]], where they are not just the key in another case, and
// what the help says of it.
type keyFlag struct {
	flag, short, env, usage string
}

// GitLab: the names of its runner.
func keyFlags() map[string]keyFlag {
	return map[string]keyFlag{
		"url":                  {short: "u", env: "CI_SERVER_URL", usage: "URL of the GitLab server"},
		"token":                {short: "t", env: "CI_SERVER_TOKEN", usage: "the runner's authentication token (glrt-…), from its page in GitLab"},
		"name":                 {usage: "name of the runner (also --description)"},
		"executor":             {usage: "what runs the jobs: docker or shell"},
		"limit":                {usage: "most jobs at once, 0 = as many as concurrent allows"},
		"request_concurrency":  {usage: "most job requests at once"},
		"output_limit":         {usage: "most KiB of a job's log"},
		"builds_dir":           {usage: "where projects are, in the container"},
		"cache_dir":            {usage: "where caches are, in the container"},
		"environment":          {flag: "env", env: "RUNNER_ENV", usage: "KEY=value for every job"},
		"shell":                {usage: "bash or sh (default: what the image has)"},
		"clone_url":            {env: "CLONE_URL"},
		"feature_flags":        {env: "FEATURE_FLAGS", usage: "feature flag of GitLab's runner"},
		"tls-ca-file":          {env: "CI_SERVER_TLS_CA_FILE", usage: "certificates to trust besides the system's"},
		"tls-cert-file":        {env: "CI_SERVER_TLS_CERT_FILE", usage: "certificate to show to the server"},
		"tls-key-file":         {env: "CI_SERVER_TLS_KEY_FILE", usage: "its key"},
		"docker.image":         {usage: "image for jobs that name none"},
		"docker.volumes":       {usage: "volume to mount, /path or /host/path:/path"},
		"docker.host":          {usage: "address of the Docker Engine"},
		"docker.tls_cert_path": {flag: "docker-cert-path", env: "DOCKER_CERT_PATH"},
		"docker.tls_verify":    {flag: "docker-tlsverify", env: "DOCKER_TLS_VERIFY"},
		"docker.userns_mode":   {flag: "docker-userns", env: "DOCKER_USERNS_MODE"},
		"docker.ipcmode":       {env: "DOCKER_IPC_MODE"},

		"custom_build_dir.enabled":     {usage: "let jobs set GIT_CLONE_PATH"},
		"cache.Type":                   {usage: "where caches are kept beside this machine: s3"},
		"cache.MaxUploadedArchiveSize": {env: "CACHE_MAXIMUM_UPLOADED_ARCHIVE_SIZE"},
	}
}

// runnerTable is a table of [[runners]] that flags are made for.
type runnerTable struct {
	prefix, env string // of the names of its keys and of their variables
	v           reflect.Value
}

func runnerTables(r *config.Runner) []runnerTable {
	return []runnerTable{
		{"", "RUNNER_", reflect.ValueOf(r).Elem()},
		{"docker.", "DOCKER_", reflect.ValueOf(r.Docker).Elem()},
		{"custom_build_dir.", "CUSTOM_BUILD_DIR_", reflect.ValueOf(&r.CustomBuildDir).Elem()},
		{"artifact.", "ARTIFACT_", reflect.ValueOf(&r.Artifact).Elem()},
		{"cache.", "CACHE_", reflect.ValueOf(&r.Cache).Elem()},
		{"cache.s3.", "CACHE_S3_", reflect.ValueOf(&r.Cache.S3).Elem()},
	}
}

// keyAt is the key of field i.
func (t runnerTable) keyAt(i int) string {
	key, _, _ := strings.Cut(t.v.Type().Field(i).Tag.Get("toml"), ",")
	return key
}

// runnerFlags makes a flag, with its variable, for every key of [[runners]] and its tables, but our own, that has an effect
// and can be written on a command line.
func runnerFlags(fs *pflag.FlagSet, r *config.Runner) {
	for _, t := range runnerTables(r) {
		tableFlags(fs, t)
	}
}

// fillFrom takes from a template what no flag has set.
func fillFrom(fs *pflag.FlagSet, r, template *config.Runner) {
	from, tables := runnerTables(template), runnerTables(r)
	isTable := func(key string) bool {
		return slices.ContainsFunc(tables, func(t runnerTable) bool { return t.prefix == key+"." })
	}
	for n, to := range tables {
		for i := range to.v.NumField() {
			key := to.prefix + to.keyAt(i)
			if f := fs.Lookup(flagOf(key)); !isTable(key) && (f == nil || !f.Changed) {
				to.v.Field(i).Set(from[n].v.Field(i))
			}
		}
	}
}

func tableFlags(fs *pflag.FlagSet, t runnerTable) {
	names := keyFlags()
	for i := range t.v.NumField() {
		key := t.keyAt(i)
		if key == "-" || key == "id" { // the server gives the ID
			continue
		}
		n := names[t.prefix+key]
		n.flag = flagOf(t.prefix + key)
		if n.env == "" {
			n.env = t.env + strings.ToUpper(strings.ReplaceAll(words(key), "-", "_"))
		}
		if n.usage == "" {
			n.usage = key + " of [[runners]]"
			if t.prefix != "" {
				n.usage = key + " of [runners." + strings.TrimSuffix(t.prefix, ".") + "]"
			}
		}
		if valueFlag(fs, n, t.v.Field(i).Addr().Interface()) {
			bindEnv(fs, n.flag, n.env)
		}
	}
}

// valueFlag makes a flag for a field; false if the field has none: tables, and dates, which the server gives.
func valueFlag(fs *pflag.FlagSet, n keyFlag, field any) bool {
	switch f := field.(type) {
	case *string:
		fs.StringVarP(f, n.flag, n.short, "", n.usage)
	case *config.Secret:
		fs.StringVarP((*string)(f), n.flag, n.short, "", n.usage)
	case *bool:
		fs.BoolVar(f, n.flag, false, n.usage)
	case *int:
		fs.IntVar(f, n.flag, 0, n.usage)
	case *int64:
		fs.Int64Var(f, n.flag, 0, n.usage)
	case *time.Duration:
		fs.DurationVar(f, n.flag, 0, n.usage)
	case *[]string:
		fs.StringArrayVar(f, n.flag, nil, n.usage+", once per `value`")
	case *config.StringList:
		fs.StringArrayVar((*[]string)(f), n.flag, nil, n.usage+", once per `value`")
	case *map[string]string:
		fs.Var(pairs{f}, n.flag, n.usage+", once per `key:value`")
	case *map[string]bool:
		fs.Var(switches{f}, n.flag, n.usage+", once per `NAME:true`")
	case **int:
		fs.Func(n.flag, n.usage+", a `number`", func(text string) error { return setPointer(f, strconv.Atoi, text, "a number") })
	case **bool:
		fs.BoolFunc(n.flag, n.usage, func(text string) error { return setPointer(f, strconv.ParseBool, text, "true or false") })
	case *config.Bytes:
		fs.TextVar(f, n.flag, *f, n.usage+", a `size` such as 512m")
	case *config.NanoCPUs:
		fs.TextVar(f, n.flag, *f, n.usage+", a `number` such as 1.5")
	default:
		return false
	}
	return true
}

// switches are things that are on or off, as a flag's value.
//
// GitLab: name and value are parted by a colon.
type switches struct{ m *map[string]bool }

// Set implements pflag.Value. It takes several, separated by commas, as a variable has them.
func (s switches) Set(text string) error {
	set := map[string]bool{}
	for pair := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(pair, ":")
		on, err := strconv.ParseBool(strings.TrimSpace(value))
		if name = strings.TrimSpace(name); name == "" || err != nil {
			return fmt.Errorf("%q is not of the form NAME:true", pair)
		}
		set[name] = on
	}
	if *s.m == nil {
		*s.m = map[string]bool{}
	}
	maps.Copy(*s.m, set)
	return nil
}

// String implements pflag.Value.
func (s switches) String() string { return "" }

// Type implements pflag.Value.
func (switches) Type() string { return "switches" }

// pairs are keys and values, as a flag's value.
//
// GitLab: they are parted by a colon, and a comma parts nothing: /run:rw,noexec. The equals sign is how Docker's own flags have it.
type pairs struct{ m *map[string]string }

// Set implements pflag.Value.
func (p pairs) Set(text string) error {
	i := strings.IndexAny(text, ":=")
	if i < 1 {
		return fmt.Errorf("%q is not of the form key:value", text)
	}
	if *p.m == nil {
		*p.m = map[string]string{}
	}
	(*p.m)[text[:i]] = text[i+1:]
	return nil
}

// String implements pflag.Value.
func (p pairs) String() string { return "" }

// Type implements pflag.Value.
func (pairs) Type() string { return "pairs" }

// setPointer sets a field that is nil without a value.
func setPointer[T any](field **T, parse func(string) (T, error), text, wanted string) error {
	v, err := parse(text)
	if err != nil {
		return fmt.Errorf("%q is not %s", text, wanted)
	}
	*field = &v
	return nil
}

// flagOf is the flag for a key of [[runners]]: docker.cap_add is --docker-cap-add.
// cache.s3.ServerAddress is --cache-s3-server-address.
func flagOf(key string) string {
	if n := keyFlags()[key]; n.flag != "" {
		return n.flag
	}
	return strings.NewReplacer(".", "-", "_", "-").Replace(words(key))
}

var wordEnd = regexp.MustCompile(`([a-z0-9])([A-Z])`)

// words parts the words of a key that is written in CamelCase.
func words(key string) string { return strings.ToLower(wordEnd.ReplaceAllString(key, "$1-$2")) }

// flagFor is flagOf for a key as config's errors name it.
func flagFor(key string) string { return "--" + flagOf(strings.TrimPrefix(key, "runners.")) }

// withoutEffect finds the key of config.toml that an unknown flag of GitLab's register stands for.
func withoutEffect(flag string) (why string, ok bool) {
	for _, s := range config.Unimplemented() {
		if key, inRunner := strings.CutPrefix(s.Key, "runners."); inRunner && flagOf(key) == flag {
			return fmt.Sprintf("leave it out, %s has no effect in slipway: %s", s.Key, s.Why), true
		}
	}
	return "", false
}
