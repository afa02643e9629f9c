package source

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/slipway-ci/slipway/internal/job"
)

// refspec is one line of git_info.refspecs. All are taken as forced.
type refspec struct {
	src, dst string
	glob     bool // both names hold one *
}

// privateRefs is where the mirror keeps what it fetched by name, under hashes: a flat list, in which a branch "a" that
// was deleted on the server does not stand in the way of a new branch "a/b".
const privateRefs = "refs/slipway/"

func parseRefspec(s string) (refspec, error) {
	src, dst, _ := strings.Cut(strings.TrimPrefix(s, "+"), ":")
	r := refspec{src: src, dst: dst, glob: strings.Contains(src, "*")}
	if err := checkRef(src); err != nil {
		return refspec{}, fmt.Errorf("refspec %q: %w", s, err)
	}
	if dst != "" {
		if err := checkRef(dst); err != nil {
			return refspec{}, fmt.Errorf("refspec %q: %w", s, err)
		}
	}
	if strings.Count(src, "*") > 1 || strings.Count(dst, "*") != strings.Count(src, "*") {
		return refspec{}, fmt.Errorf("refspec %q: the two sides need one * each, or none", s)
	}
	if strings.HasPrefix(dst, privateRefs) {
		return refspec{}, fmt.Errorf("refspec %q: %s is ours", s, privateRefs)
	}
	return r, nil
}

// checkRef: the rules of git check-ref-format that keep a name from being an option, an expression or a path elsewhere.
func checkRef(name string) error {
	if !strings.HasPrefix(name, "refs/") || strings.HasSuffix(name, "/") || strings.HasSuffix(name, ".") {
		return fmt.Errorf("bad ref name %q", name)
	}
	for _, bad := range []string{"..", "@{", "//", "/.", ".lock/", "\\"} {
		if strings.Contains(name+"/", bad) {
			return fmt.Errorf("bad ref name %q", name)
		}
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c == 0x7f || strings.IndexByte("~^:?[", c) >= 0 {
			return fmt.Errorf("bad ref name %q", name)
		}
	}
	return nil
}

// jobRefspecs are the payload's refspecs; without any, those of the job's own ref.
func jobRefspecs(g job.Git) ([]refspec, error) {
	lines := g.Refspecs
	if len(lines) == 0 {
		lines = []string{"refs/heads/" + g.Ref + ":refs/remotes/origin/" + g.Ref}
		if g.RefType == "tag" {
			lines = []string{"refs/tags/" + g.Ref + ":refs/tags/" + g.Ref}
		}
	}
	out := make([]refspec, 0, len(lines))
	for _, l := range lines {
		r, err := parseRefspec(l)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// mirrorRef is the name under which the mirror keeps what r fetches. Globs and tags keep their names: tags are also
// fetched by Git itself, with the commits that they point to.
func (r refspec) mirrorRef(jobRef string) string {
	switch {
	case r.glob && r.dst != "", strings.HasPrefix(r.dst, "refs/tags/"):
		return r.dst
	case r.ofPipeline():
		// One ref for each pipeline would never end. The ref it was made for takes its place.
		return hashedRef("pipeline " + jobRef)
	}
	return hashedRef(r.src)
}

func hashedRef(name string) string {
	sum := sha256.Sum256([]byte(name))
	return privateRefs + hex.EncodeToString(sum[:16])
}

// ofPipeline: such a ref has another name in each pipeline, so no job gets to see it.
func (r refspec) ofPipeline() bool { return strings.HasPrefix(r.src, "refs/pipelines/") }

// matches reports whether name is one that a glob writes to.
func (r refspec) matches(name string) bool {
	before, after, _ := strings.Cut(r.dst, "*")
	return len(name) > len(before)+len(after) && strings.HasPrefix(name, before) && strings.HasSuffix(name, after)
}
