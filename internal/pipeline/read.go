package pipeline

import (
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/internal/job"
)

// GitLab: .pre runs before and .post after everything else, wherever they are listed.
const (
	stagePre     = ".pre"
	stagePost    = ".post"
	defaultStage = "test"
)

// pipeline reads the file as a whole.
func (r *reader) pipeline(root *value) *Pipeline {
	if root.kind != kindMap {
		r.errorf(root.position, "", "the file must be a mapping of keywords and jobs, not %v", root.kind)
		return nil
	}
	p := &Pipeline{
		Stages:    r.stages(root.get("stages")),
		Variables: r.variables(root.get("variables"), globalVariableKeywords, "variables: "),
	}
	inherited := r.defaults(root)
	for _, e := range root.entries {
		_, keyword := rootKeywords[e.key]
		switch {
		case keyword, strings.HasPrefix(e.key, "."):
			// Hidden jobs are only there for others; nothing in them counts until an alias uses it.
		case e.value.kind == kindNull:
			r.errorf(e.at, rootKeywords.hint(e.key), "job %s: there is nothing in it", e.key)
		case e.value.kind != kindMap:
			r.errorf(e.at, rootKeywords.hint(e.key), "unknown keyword %q", e.key)
		default:
			p.Jobs = append(p.Jobs, r.job(e, p, *inherited))
		}
	}
	for _, e := range root.entries {
		if read, ok := rootKeywords[e.key]; ok && !read && e.value.kind != kindNull {
			r.errorf(e.at, "", "%s is not supported yet", e.key)
		}
	}
	switch {
	case len(r.errs) > 0:
	case len(p.Jobs) == 0:
		r.errorf(root.position, "", "there is no job: a pipeline needs at least one with a script")
	case !slices.ContainsFunc(p.Jobs, func(j *Job) bool { return j.Stage != stagePre && j.Stage != stagePost }):
		r.errorf(root.position, "", "there are only jobs in %s and %s: GitLab creates no pipeline", stagePre, stagePost)
	}
	return p
}

// stages returns nil when they cannot be read: then no job's stage is unknown.
func (r *reader) stages(v *value) []string {
	names := []string{"build", "test", "deploy"}
	if v != nil {
		known := len(r.errs)
		names = r.stringList(v, "stages: ")
		if len(r.errs) > known {
			return nil
		}
	}
	out := []string{stagePre}
	for _, n := range names {
		if !slices.Contains(out, n) && n != stagePost {
			out = append(out, n)
		}
	}
	return append(out, stagePost)
}

// defaults reads default:, and what stands for it at the top of the file, into a job that the others start from.
func (r *reader) defaults(root *value) *template {
	t := &template{}
	def := root.get("default")
	switch {
	case def == nil:
	case def.kind == kindMap:
		r.check(def, defaultKeywords, "default: ")
		r.inheritable(t, def, "default: ")
	default:
		r.errorf(def.position, "", "default: must be a mapping, not %v", def.kind)
	}
	top := &value{}
	for _, e := range root.entries {
		switch e.key {
		case "image", "services", "before_script", "after_script":
			top.entries = append(top.entries, e)
			if root.get(e.key) != nil && def.get(e.key) != nil {
				r.errorf(e.at, "keep the one in default:", "%s is given at the top of the file and in default:", e.key)
			}
		}
	}
	r.inheritable(t, top, "")
	return t
}

// template is a job in the making: before_script joins the script last.
type template struct {
	Job
	before []string
}

// inheritable reads what a job may also get from default:. It leaves alone what v does not have.
func (r *reader) inheritable(t *template, v *value, where string) {
	if i := v.get("image"); i != nil {
		t.Image = r.image(i, where)
	}
	if s := v.get("services"); s != nil {
		t.Services = r.services(s, where)
	}
	if l := v.get("tags"); l != nil {
		t.Tags = r.stringList(l, where+"tags: ")
	}
	if d := v.get("timeout"); d != nil {
		t.Timeout = r.timeout(d, where)
	}
	if s := v.get("before_script"); s != nil {
		t.before = r.script(s, where+"before_script: ")
	}
	if s := v.get("after_script"); s != nil {
		t.AfterScript = r.script(s, where+"after_script: ")
	}
}

// job reads one visible job.
func (r *reader) job(e entry, p *Pipeline, inherited template) *Job {
	where, v := "job "+e.key+": ", e.value
	j := &inherited.Job // a copy
	j.Name, j.Stage, j.When, j.Line, j.Col = e.key, defaultStage, OnSuccess, e.at.line, e.at.col
	if len(j.Name) > 255 {
		r.errorf(e.at, "", "a job's name has %d characters, more than 255", len(j.Name))
	}
	r.check(v, jobKeywords, where)
	r.inheritable(&inherited, v, where)
	j.Variables = append(slices.Clone(p.Variables), r.variables(v.get("variables"), variableKeywords, where)...).Unique()
	j.Script = slices.Concat(inherited.before, r.mainScript(e, where))
	if s := v.get("stage"); s != nil {
		j.Stage = r.string(s, where+"stage: ")
	}
	if p.Stages != nil && !slices.Contains(p.Stages, j.Stage) {
		at := e.at
		if s := v.get("stage"); s != nil {
			at = s.position
		}
		r.errorf(at, "the stages are "+strings.Join(p.Stages, ", "), "%sthere is no stage %q", where, j.Stage)
	}
	if w := v.get("when"); w != nil {
		j.When = r.when(w, where)
	}
	if a := v.get("allow_failure"); a != nil {
		j.AllowFailure = r.allowFailure(a, where)
	}
	return j
}

// mainScript reads script:, which a job cannot do without.
func (r *reader) mainScript(e entry, where string) []string {
	s := e.value.get("script")
	if s == nil {
		if e.value.get("trigger") != nil || e.value.get("run") != nil {
			return nil // already told that those are not supported
		}
		hint := "a name that starts with a dot makes it hidden"
		if meant := rootKeywords.hint(e.key); meant != "" {
			hint = meant
		}
		r.errorf(e.at, hint, "%sthere is no script", where)
		return nil
	}
	known := len(r.errs)
	lines := r.script(s, where+"script: ")
	if len(lines) == 0 && len(r.errs) == known {
		r.errorf(s.position, "", "%sthe script is empty", where)
	}
	return lines
}

func (r *reader) when(v *value, where string) When {
	switch w := When(r.string(v, where+"when: ")); w {
	case OnSuccess, OnFailure, Always:
		return w
	case "manual", "delayed":
		r.errorf(v.position, "", "%swhen: %s is not supported yet", where, w)
	default:
		r.errorf(v.position, "it is one of on_success, on_failure, always", "%sthere is no when: %q", where, w)
	}
	return OnSuccess
}

func (r *reader) allowFailure(v *value, where string) bool {
	switch v.kind {
	case kindBool:
		return v.text == "true"
	case kindMap:
		r.errorf(v.position, "", "%sallow_failure:exit_codes is not supported yet", where)
	default:
		r.errorf(v.position, "", "%sallow_failure must be true or false, not %v", where, v.kind)
	}
	return false
}

// variables reads a mapping of variables.
//
// GitLab: numbers and booleans count as their text; nothing is an empty string.
func (r *reader) variables(v *value, known keywords, where string) job.Variables {
	if v == nil {
		return nil
	}
	if v.kind != kindMap {
		r.errorf(v.position, "", "%svariables must be a mapping, not %v", where, v.kind)
		return nil
	}
	out := make(job.Variables, 0, len(v.entries))
	for _, e := range v.entries {
		variable := job.Variable{Key: e.key, Value: e.value.text, Public: true}
		switch e.value.kind {
		case kindList:
			r.errorf(e.value.position, "", "%svariable %s must be a string, not a list", where, e.key)
		case kindMap:
			r.check(e.value, known, where+"variable "+e.key+": ")
			if text := e.value.get("value"); text != nil {
				variable.Value = r.scalar(text, where+"variable "+e.key+": ")
			}
			if expand := e.value.get("expand"); expand != nil {
				variable.Raw = expand.text == "false"
				if expand.kind != kindBool {
					r.errorf(expand.position, "", "%svariable %s: expand must be true or false", where, e.key)
				}
			}
		}
		out = append(out, variable)
	}
	return out
}
