package guard

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// frontendOptions are a client's options for the Dockerfile frontend, in two parts: those that POST /build has too, in
// the form of its query, so that the same rules hold for them; and what gRPC alone has.
type frontendOptions struct {
	query    url.Values
	own      map[string]string // checked, for the Engine
	contexts map[string]string // named contexts
	folders  map[string]string // of the client → the session that has it, "" = the build's
	context  string            // the folder that is the build's context
	source   string            // the folder that the Dockerfile is in
}

// The names of frontend options, as BuildKit has them.
const (
	optionBuildArg  = "build-arg:"
	optionLabel     = "label:"
	optionContext   = "context:"
	optionSession   = "local-sessionid:"
	optionSharedKey = "sharedkey:localdir:"
	optionInput     = "input-metadata:"
	optionVCS       = "vcs:"
	optionAttest    = "attest:"
	optionCaps      = "frontend.caps"
)

// queryKeys are the options that POST /build has under another name.
var queryKeys = map[string]string{
	"filename": "dockerfile", "target": "target", "platform": "platform", "shm-size": "shmsize", "context": "remote", "force-network-mode": "networkmode",
}

var (
	folderForm  = regexp.MustCompile(`^[A-Za-z0-9._+-]{1,128}$`)
	requestForm = regexp.MustCompile(`^frontend\.[a-z.]{1,64}$`)
	stagesForm  = regexp.MustCompile(`^[A-Za-z0-9_.,-]*$`)
	capsForm    = regexp.MustCompile(`^[A-Za-z0-9.,+_-]*$`)
	boolForm    = regexp.MustCompile(`^(?i:true|false|1|0|t|f)?$`)
)

// plainOptions are passed on as they are, if they have the form.
var plainOptions = map[string]*regexp.Regexp{
	"no-cache":       stagesForm,
	"requestid":      requestForm,
	optionCaps:       capsForm,
	"multi-platform": boolForm,
	"hostname":       hostForm,
}

// droppedOptions have no effect here: the guard decides in their place, or they mean nothing without others.
var droppedOptions = []string{
	"cmdline", "source", "cgroup-parent", "contextsubdir", "memory", "memswap", "cpushares", "cpuperiod", "cpuquota", "cpusetcpus", "cpusetmems",
}

// readFrontendOptions sorts a client's options. What is not known is refused: it would decide over something that nobody
// has checked.
func (c *call) readFrontendOptions(all map[string]string) (*frontendOptions, error) {
	o := &frontendOptions{
		query: url.Values{}, own: map[string]string{}, contexts: map[string]string{}, folders: map[string]string{},
		context: dirContext, source: dirDockerfile,
	}
	args, labels := map[string]string{}, map[string]string{}
	for k, v := range all {
		rest := k[strings.Index(k, ":")+1:]
		switch {
		case strings.HasPrefix(k, optionBuildArg):
			args[rest] = v
		case strings.HasPrefix(k, optionLabel):
			labels[rest] = v
		case strings.HasPrefix(k, optionContext):
			o.contexts[rest] = v
		case strings.HasPrefix(k, optionSession):
			o.folders[rest] = v
		case strings.HasPrefix(k, optionSharedKey), strings.HasPrefix(k, optionInput), strings.HasPrefix(k, optionVCS):
			o.own[k] = v
		default:
			if err := c.readFrontendOption(o, k, v); err != nil {
				return nil, err
			}
		}
	}
	for key, m := range map[string]map[string]string{"buildargs": args, "labels": labels} {
		data, err := json.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", key, err)
		}
		o.query.Set(key, string(data))
	}
	return o, nil
}

func (c *call) readFrontendOption(o *frontendOptions, k, v string) error {
	if key := queryKeys[k]; key != "" {
		if v != "" {
			o.query.Set(key, v)
		}
		return nil
	}
	if form := plainOptions[k]; form != nil {
		if !form.MatchString(v) {
			return badRequest("slipway: the build's option %s=%q is not of the form that it should have", k, printable(v))
		}
		o.own[k] = v
		return nil
	}
	switch {
	case k == "contextkey":
		o.context = v
	case k == "dockerfilekey":
		o.source = v
	case k == "add-hosts":
		return o.readHosts(v)
	case k == "ulimit":
		return o.readUlimits(v)
	case k == "image-resolve-mode":
		if v == "pull" {
			o.query.Set("pull", "1")
		}
	case k == "cache-from" && v != "":
		o.query.Set("cachefrom", v)
	case k == "cache-imports":
		if n, err := cacheImports(v); err != nil || n > 0 {
			o.query.Set("cachefrom", v)
			return err
		}
	case strings.HasPrefix(k, optionAttest):
		return c.readAttestation(o, k, v)
	case slices.Contains(droppedOptions, k), v == "":
	default:
		o.own[k] = v // for audit mode
		return c.refuse(deny("build-option", "leave it out, or use an older client", "the build's option %s: nobody has checked what it does", printable(k)))
	}
	return nil
}

// attestAttributes are what provenance may be told.
var attestAttributes = []string{"mode", "inline-only", "version", "disabled", "reproducible", "builder-id"}

// readAttestation takes what is written about the build into its image. A bill of materials is made by an image that
// BuildKit would run as it is.
func (c *call) readAttestation(o *frontendOptions, k, v string) error {
	o.own[k] = v
	if k != optionAttest+"provenance" {
		return c.refuse(deny("build-attest", "run the scanner on the image with docker run", "%s: the Engine would run an image that nobody has checked", printable(k)))
	}
	fields, err := csvFields(v)
	if err != nil {
		return badRequest("slipway: %s cannot be decoded", k)
	}
	for _, f := range fields {
		if name, _, _ := strings.Cut(f, "="); !slices.Contains(attestAttributes, name) {
			return c.refuse(deny("build-attest", "leave it out", "%s with %s: nobody has checked what that does", printable(k), printable(name)))
		}
	}
	return nil
}

// readHosts turns name=address into the query's name:address.
func (o *frontendOptions) readHosts(v string) error {
	fields, err := csvFields(v)
	if err != nil {
		return badRequest("slipway: add-hosts cannot be decoded")
	}
	o.query["extrahosts"] = fields
	return nil
}

// readUlimits turns name=soft:hard into the query's JSON.
func (o *frontendOptions) readUlimits(v string) error {
	fields, err := csvFields(v)
	if err != nil {
		return badRequest("slipway: ulimit cannot be decoded")
	}
	var limits []*ulimit
	for _, f := range fields {
		name, values, _ := strings.Cut(f, "=")
		soft, hard, both := strings.Cut(values, ":")
		if !both {
			hard = soft
		}
		s, err := strconv.ParseInt(soft, 10, 64)
		if err == nil {
			l := &ulimit{Name: name, Soft: s}
			if l.Hard, err = strconv.ParseInt(hard, 10, 64); err == nil {
				limits = append(limits, l)
			}
		}
		if err != nil {
			return badRequest("invalid ulimit %q", printable(f))
		}
	}
	data, err := json.Marshal(limits)
	if err != nil {
		return fmt.Errorf("encode ulimits: %w", err)
	}
	o.query.Set("ulimits", string(data))
	return nil
}

// frontendOpts are the options for the Engine, from what the rules left of the query.
func (b *buildRequest) frontendOpts(o *frontendOptions) (map[string]string, error) {
	out := map[string]string{
		// With any value, the frontend does not look for another one in the Dockerfile.
		"cmdline": "dockerfile.v0",
	}
	maps.Copy(out, o.own)
	for option, key := range queryKeys {
		if v := b.options.Get(key); v != "" {
			out[option] = v
		}
	}
	var hosts []string
	for _, h := range b.options["extrahosts"] {
		name, address, _ := strings.Cut(h, ":")
		hosts = append(hosts, name+"="+address)
	}
	out["add-hosts"] = strings.Join(hosts, ",")
	for key, prefix := range map[string]string{"buildargs": optionBuildArg, "labels": optionLabel} {
		var values map[string]string
		if text := b.options.Get(key); text != "" {
			if err := json.Unmarshal([]byte(text), &values); err != nil {
				return nil, fmt.Errorf("decode %s: %w", key, err)
			}
		}
		for k, v := range values {
			out[prefix+k] = v
		}
	}
	var limits []*ulimit
	if text := b.options.Get("ulimits"); text != "" {
		if err := json.Unmarshal([]byte(text), &limits); err != nil {
			return nil, fmt.Errorf("decode ulimits: %w", err)
		}
		var fields []string
		for _, l := range limits {
			fields = append(fields, fmt.Sprintf("%s=%d:%d", l.Name, l.Soft, l.Hard))
		}
		out["ulimit"] = strings.Join(fields, ",")
	}
	// Part of no key, so that each job may have its own. Older frontends do not know them.
	if limit := b.c.policy.Limits; limit.Memory > 0 {
		out["memory"] = strconv.FormatInt(limit.Memory, 10)
		if b.c.policy.SwapLimit {
			out["memswap"] = out["memory"] // of both together: no swap, as containers have it
		}
	}
	if limit := b.c.policy.Limits; limit.NanoCPUs > 0 {
		out["cpuperiod"] = "100000"
		out["cpuquota"] = strconv.FormatInt(limit.NanoCPUs/10_000, 10)
	}
	return out, nil
}

// csvFields reads one line of values, as BuildKit's options have them.
func csvFields(v string) ([]string, error) {
	r := csv.NewReader(strings.NewReader(v))
	fields, err := r.Read()
	if err == nil {
		_, err = r.Read()
		if err == io.EOF {
			return fields, nil
		}
		err = errors.Join(err, errors.New("more than one line"))
	}
	return nil, err
}
