package executor

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/guard"
	"github.com/slipway-ci/slipway/internal/job"
	"github.com/slipway-ci/slipway/internal/script"
)

// objectsDir is where a container finds the mirror's objects, outside of every folder that a build context could be.
const objectsDir = "/.slipway/objects"

// gitDir is where it finds the job's Git directory with git_dir = "outside".
const gitDir = "/.slipway/git"

// modulesDir is the same for the objects of its submodules.
const modulesDir = "/.slipway/modules"

// The names of a job's stages: the log's sections, and the files of their scripts.
const (
	stagePrepare  = "prepare_executor"
	stageEnviron  = "prepare_script"
	stageSources  = "get_sources"
	stagePreHook  = "pre_get_sources_script"
	stageHook     = "post_get_sources_script"
	stageAfter    = "after_script"
	scriptsPrefix = "slipway." // a dot: no variable of that name
)

// plan is all that is decided about a job before anything is done. err tells why it cannot run at all.
type plan struct {
	spec *job.Spec
	slot Slot
	vars job.Variables // expanded

	image     imagePlan
	container docker.Container // without image ID and mounts of the workspace
	layout    layout
	volumes   []volume
	dind      *dindPlan // nil = none
	services  []servicePlan
	linked    linked
	network   string // of the job's own; "" = none
	source    sourcePlan
	imageUser bool // its files belong to the container's user, who is known when there is a container
	mapped    bool // the container's users have other numbers on this machine

	began        time.Time
	dir, tempDir string // in the container
	files        []job.Variable
	hostEnv      []string    // of the job's shell without a container
	exports      [][2]string // those of hostEnv that the scripts export first, whatever a profile made of them
	preHook      *stage      // before the sources are fetched; nil = none
	stages       []stage
	artifacts    []artifactPlan
	caches       []cachePlan
	withheld     []string // keys of [runners.docker] that the container is not given
	warnings     []string
	err          error
}

// stage is one script of the job.
type stage struct {
	name, headline string
	text           func(status string) string // after_script knows how the script ended
	timeout        time.Duration              // 0 = the job's
	timeoutBy      string                     // the variable that sets it
	ignoreErrors   bool
	first          bool // if it fails, none follows
}

// plan decides. It does nothing, and asks only the file system which paths are the Engine's socket, so that the same
// job gives the same plan.
func (e *Executor) plan(slot Slot, spec *job.Spec, random string) *plan {
	s := e.Settings
	p := &plan{spec: spec, slot: slot, err: s.mayRun(spec)}
	projectPath, err := cleanProjectPath(spec.JobInfo.ProjectFullPath)
	if err != nil && p.err == nil {
		p.err = err
	}
	if s.Account != nil {
		p.layout = s.sharedLayout(s.BuildsDir, slot)
	} else if p.layout, p.volumes, err = s.volumes(slot, spec); err != nil && p.err == nil {
		p.err = err
	}
	p.dir = path.Join(s.BuildsDir, p.layout.below, projectPath)
	p.tempDir = p.dir + ".tmp"
	p.vars = s.variables(slot, spec, p.dir, p.tempDir)
	if dir := p.vars.Get("GIT_CLONE_PATH"); dir != "" {
		if err := s.clonePath(dir); err != nil && p.err == nil {
			p.err = err
		} else if err == nil {
			p.dir = path.Clean(dir)
			p.tempDir = p.dir + ".tmp"
			p.vars = s.variables(slot, spec, p.dir, p.tempDir)
		}
	}
	var services []job.Service
	if s.Account == nil {
		services = s.readServices(p)
	}
	if p.dind != nil {
		s.setDind(p)
	}
	for _, v := range p.vars {
		if v.File {
			p.files = append(p.files, v)
		}
	}
	p.source, err = s.source(p)
	if err != nil && p.err == nil {
		p.err = err
	}
	if err := unsupported(spec); err != nil && p.err == nil {
		p.err = err
	}
	if s.Account != nil {
		s.planHost(p)
	} else {
		if err := s.planContainer(p, services, random); err != nil && p.err == nil {
			p.err = err
		}
		s.planOwner(p)
	}
	p.preHook = s.preHook(p)
	p.stages = s.stages(p)
	if p.artifacts, err = p.planArtifacts(); err != nil && p.err == nil {
		p.err = err
	}
	p.caches = s.planCaches(p)
	p.warn()
	if s.Account == nil {
		p.warnings = append(p.warnings, s.socketWarnings(p)...)
	}
	return p
}

// clonePath says whether a job may have its project at dir.
//
// GitLab: it must lie in builds_dir, and is refused if custom_build_dir is off, as it is without containers.
func (s Settings) clonePath(dir string) error {
	switch builds := path.Clean(s.BuildsDir); {
	case s.Account != nil:
		return configurationError("take GIT_CLONE_PATH out", "GIT_CLONE_PATH works in containers only")
	case s.FixedDir:
		return configurationError("take GIT_CLONE_PATH out, or let the operator set enabled = true in [runners.custom_build_dir]", "GIT_CLONE_PATH is not allowed on this runner")
	case !path.IsAbs(dir) || !isBelow(path.Clean(dir), builds) || strings.ContainsAny(dir, ":\x00\n"):
		return configurationError("begin it with $CI_BUILDS_DIR", "GIT_CLONE_PATH is %q, which is not below %s", dir, builds)
	}
	return nil
}

// planContainer decides what the job and its services run in. The first error is returned; the plan is made all the same.
func (s Settings) planContainer(p *plan, services []job.Service, random string) error {
	var err error
	p.image, err = s.image(p)
	p.container = s.container(p, random)
	if serr := s.services(p, services, random); err == nil {
		err = serr
	}
	if ferr := fitsEnvironment(p.container.Env); err == nil {
		err = ferr
	}
	return err
}

// planHost decides what the job's processes on this machine get.
func (s Settings) planHost(p *plan) {
	p.hostEnv = environ(p.source.environ(p.vars), p.tempDir)
	if err := fitsEnvironment(p.hostEnv); err != nil && p.err == nil {
		p.err = err
	}
	for _, e := range p.hostEnv {
		if name, value, _ := strings.Cut(e, "="); script.IsName(name) {
			p.exports = append(p.exports, [2]string{name, value})
		}
	}
	if len(p.spec.Services) > 0 {
		p.warnings = append(p.warnings, "services: are not started: this runner runs jobs in a shell, without containers")
	}
}

// mayRun refuses jobs that the operator did not set the runner up for. It asks the payload's own fields, which no pipeline
// can set. GitLab takes no difference between upper and lower case in paths.
func (s Settings) mayRun(spec *job.Spec) error {
	const hint = "give the job tags of another runner, or ask who operates this one"
	path := spec.JobInfo.ProjectFullPath
	lower := func(globs []string) (out []string) {
		for _, g := range globs {
			out = append(out, strings.ToLower(g))
		}
		return out
	}
	if !matchesAny(lower(s.AllowedProjects), strings.ToLower(path)) {
		return configurationError(hint, "this runner does not run jobs of the project %s (allowed_projects in [runners.slipway])", path)
	}
	if s.ProtectedOnly && !spec.GitInfo.IsProtected() {
		return configurationError(hint, "this runner runs jobs of protected branches and tags only, and %s is none (protected_only in [runners.slipway])", spec.GitInfo.Ref)
	}
	return nil
}

// container is what the container is made of, but for what only doing can tell.
func (s Settings) container(p *plan, random string) docker.Container {
	c := s.Container
	if s.guarded(p) && !s.Guard.TrustConfig {
		c, p.withheld = withhold(c)
	}
	c.Name = fmt.Sprintf("runner-%s-project-%d-concurrent-%d-%s-build", containerName(s.ShortToken), p.spec.JobInfo.ProjectID, p.slot.ID, random)
	c.Platform = p.image.platform
	c.Entrypoint = p.image.entrypoint
	c.Cmd = script.Shell(s.Shell)
	c.Env = environ(p.source.environ(p.vars), p.tempDir)
	c.User = p.image.user
	c.Labels = s.jobLabels(p.slot, p.spec, p.vars)
	c.Labels[labelName] = c.Name
	c.Init = s.flag("FF_USE_INIT_WITH_DOCKER_EXECUTOR", p.vars)
	c.Extras.ExtraHosts = slices.Concat(p.dindExtraHosts(), c.Extras.ExtraHosts)
	if c.Network == "" {
		c.Network = s.Network
		if len(c.Extras.Links) > 0 {
			c.Network = "bridge" // where the containers are that the operator wants to link to
		}
	}
	if c.Security.Privileged && !allowsImage(s.AllowedPrivilegedImages, p.image.name) {
		c.Security.Privileged = false
	}
	if c.Network == s.Network && !c.Security.Privileged && !wantsRawSockets(c.Security.CapAdd) {
		c.Security.CapDrop = append(slices.Clone(c.Security.CapDrop), rawSockets)
	}
	return c
}

// rawSockets is the capability that lets a container forge addresses: on the bridge that jobs share, it would get its
// neighbours' traffic, although they cannot reach each other.
const rawSockets = "NET_RAW"

// wantsRawSockets reports whether the operator gives them all the same: cap_add wins over cap_drop at the Engine.
func wantsRawSockets(capAdd []string) bool {
	return slices.ContainsFunc(capAdd, func(name string) bool {
		name = guard.Capability(name)
		return name == rawSockets || name == "ALL"
	})
}

// guarded reports whether the job has a socket of its own.
func (s Settings) guarded(p *plan) bool { return s.Socket == socketGuarded && hasSocket(p.volumes) }

// containerName keeps of a token what Docker allows in a name.
func containerName(token string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-", r) {
			return r
		}
		return '-'
	}, token)
}

// stepName is what the name of a step must not have: it becomes that of a file and of a section of the log.
var stepName = regexp.MustCompile(`[^a-z0-9_]+`)

// stages are what the job's container runs, one after the other.
//
// GitLab: a job has the step script, with release: a step release, and with after_script: that one, which always runs.
func (s Settings) stages(p *plan) []stage {
	xtrace := s.debugTrace(p)
	sections, check := s.flag("FF_SCRIPT_SECTIONS", p.vars), s.flag("FF_ENABLE_BASH_EXIT_CODE_CHECK", p.vars)
	out := s.postHook(p)
	const scriptTimeout, afterTimeout = "RUNNER_SCRIPT_TIMEOUT", "RUNNER_AFTER_SCRIPT_TIMEOUT"
	timeout := p.duration(scriptTimeout, 0)
	for _, st := range p.spec.Steps {
		if st.Name == stageAfter {
			continue
		}
		commands := st.Script
		if st.Name == "release" { // GitLab: what GitLab itself has written holds variables that no shell expands
			commands = nil
			for _, c := range st.Script {
				commands = append(commands, p.vars.Expand(c))
			}
		}
		left := "" // by an earlier stage
		if len(out) > 0 || p.preHook != nil {
			left = envFile(p.tempDir)
		}
		name := "step_" + stepName.ReplaceAllString(strings.ToLower(st.Name), "_")
		out = append(out, stage{
			name: name, headline: fmt.Sprintf("Executing %q stage of the job script", name),
			text: func(string) string {
				return script.Stage{Env: p.exports, EnvFile: left, Dir: p.dir, Commands: commands, Pre: s.PreBuild, Post: s.PostBuild, XTrace: xtrace, Sections: sections, CheckExit: check}.Text()
			},
			timeout: timeout, timeoutBy: scriptTimeout,
		})
	}
	after, ok := p.spec.Step("after_script")
	if !ok || len(after.Script) == 0 {
		return out
	}
	return append(out, stage{
		name: stageAfter, headline: "Running after_script",
		text: func(status string) string {
			return script.Stage{
				Env: p.exports, EnvFile: envFile(p.tempDir), Dir: p.dir, Commands: after.Script, Notice: "Running after script...", XTrace: xtrace, Sections: sections, CheckExit: check,
				Export: [][2]string{{"CI_JOB_STATUS", status}},
			}.Text()
		},
		timeout:      p.duration(afterTimeout, 5*time.Minute),
		timeoutBy:    afterTimeout,
		ignoreErrors: p.boolean("AFTER_SCRIPT_IGNORE_ERRORS", true),
	})
}

// debugTrace reports whether a job's scripts tell each command that they run.
func (s Settings) debugTrace(p *plan) bool {
	return p.vars.Bool("CI_DEBUG_TRACE") && !s.DebugTraceDisabled
}

// duration reads a variable that sets a timeout.
//
// GitLab: a bad, negative or too long value is a warning, and the default holds.
func (p *plan) duration(name string, byDefault time.Duration) time.Duration {
	text := p.vars.Get(name)
	if text == "" {
		return byDefault
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 || d > p.spec.Timeout() {
		p.warnings = append(p.warnings, fmt.Sprintf("%s is %q: not a duration like 10m30s within the job's timeout of %s; it is ignored", name, text, p.spec.Timeout()))
		return byDefault
	}
	return d
}

// boolean reads a variable that switches something.
func (p *plan) boolean(name string, byDefault bool) bool {
	return p.truth(name, p.vars.Get(name), byDefault)
}

// truth reads the value of a switch.
//
// GitLab: what is neither true nor false is a warning, and the default holds.
func (p *plan) truth(name, text string, byDefault bool) bool {
	if text == "" {
		return byDefault
	}
	on, err := strconv.ParseBool(text)
	if err != nil {
		p.warnings = append(p.warnings, fmt.Sprintf("%s is %q: not true or false; it is ignored", name, text))
		return byDefault
	}
	return on
}

// unsupported finds what a job needs and Slipway cannot do yet: better no job than half of one.
func unsupported(spec *job.Spec) error {
	missing := ""
	switch {
	case spec.Run != "":
		missing = "run"
	case len(spec.Secrets) > 0 && string(spec.Secrets) != "null" && string(spec.Secrets) != "{}":
		missing = "secrets"
	}
	if missing == "" {
		return nil
	}
	return &job.Error{
		Reason: job.ConfigurationError, Err: fmt.Errorf("this runner does not do %s yet", missing),
		Hint: "give the job a tag of another runner, or take the keyword out; COMPAT.md of Slipway lists what works",
	}
}

// warn collects what the job's author should know before the job runs.
func (p *plan) warn() {
	for _, h := range p.spec.Hooks {
		if len(h.Script) > 0 && h.Name != stagePreHook && h.Name != stageHook {
			p.warnings = append(p.warnings, fmt.Sprintf("hooks:%s does not run: this runner does not know it", h.Name))
		}
	}
	for _, name := range flags {
		p.truth(name, p.spec.Variables.Get(name), false) // for the warning: what holds is Settings.flag's
	}
}

// cleanProjectPath takes a project's path only if it can be a folder below another.
func cleanProjectPath(p string) (string, error) {
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, ":\\\x00") {
			return "invalid", &job.Error{Reason: job.SystemFailure, Err: fmt.Errorf("the server sent an invalid project path %q", p)}
		}
	}
	return p, nil
}
