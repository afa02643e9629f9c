package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"

	"github.com/distribution/reference"
)

// Host is the registry in whose name the scopes' own images are kept. There is none of that name, and none is asked.
const Host = "slipway.local"

// maxName is how long a name may be without its tag. Newer Engines do not count the host.
const maxName = 255

var plainHost = regexp.MustCompile(`^[a-z0-9.-]+(:[0-9]+)?$`)

// OwnName is the Engine's name for what a scope's jobs know under a canonical name. Different scopes and names never
// share one. The host is a part of the path there, where upper case, colons and brackets must not be: hosts have no
// underscores, so these mark what was replaced.
func OwnName(scope string, written reference.NamedTagged) string {
	host, path := reference.Domain(written), reference.Path(written)
	if plainHost.MatchString(host) {
		host = strings.Replace(host, ":", "__", 1)
	} else {
		host = "x_" + hex.EncodeToString([]byte(host))
	}
	name := Host + "/" + scope + "/" + host + "/" + path
	if len(name) > maxName {
		sum := sha256.Sum256([]byte(written.Name()))
		name = Host + "/" + scope + "/h_" + hex.EncodeToString(sum[:])
	}
	return name + ":" + written.Tag()
}

// Scope is whose jobs ask.
type Scope struct {
	ID string
	// Path is the own place of the jobs' project in its registry, registry.example.com/group/project: names at and below
	// it are the project's and kept as they are. "" = none.
	Path string
}

// Holds reports whether a name is at or below the own path.
func (s Scope) Holds(n reference.Named) bool { return s.holds(n.Name()) }

func (s Scope) holds(name string) bool {
	name = repository(name)
	return s.Path != "" && (name == s.Path || strings.HasPrefix(name, s.Path+"/"))
}

// Candidate is a name of the Engine's that a job's name may stand for.
type Candidate struct {
	Stored  string
	Written string // as the job knows it, canonical
}

// Candidates are what a job's name may stand for, of which the first one that there is counts: names of the own path are
// kept, other names are first the scope's own and then everybody's.
func (s Scope) Candidates(n reference.Named) []Candidate {
	var out []Candidate
	if digested, ok := n.(reference.Digested); ok {
		// A tag beside a digest counts for nothing.
		at := "@" + digested.Digest().String()
		n = reference.TrimNamed(n)
		if tagged, err := reference.WithTag(n, "x"); err == nil && !s.Holds(n) {
			out = append(out, Candidate{repository(OwnName(s.ID, tagged)) + at, n.Name() + at})
		}
		return append(out, Candidate{n.Name() + at, n.Name() + at})
	}
	tagged, ok := reference.TagNameOnly(n).(reference.NamedTagged)
	if !ok {
		return nil
	}
	if !s.Holds(n) {
		out = append(out, Candidate{OwnName(s.ID, tagged), tagged.String()})
	}
	return append(out, Candidate{tagged.String(), tagged.String()})
}

// TemporaryName is a name for an image that a scope's job needs for a moment, in a form that OwnName never gives. tag
// tells one from the other.
func TemporaryName(scope, job, tag string) string {
	return Host + "/" + scope + "/" + temporaryDir + "/" + job + ":" + tag
}

// temporaryDir is no host: those have a dot, a port or upper case, or are localhost.
const temporaryDir = "from"

// isScopes reports whether a name is a scope's own by its form.
func isScopes(name, scope string) bool {
	prefix := Host + "/" + scope + "/"
	return strings.HasPrefix(name, prefix) && !strings.HasPrefix(name, prefix+temporaryDir+"/")
}

// isOwn reports whether a name can only be a scope's own.
func isOwn(name string) bool { return strings.HasPrefix(name, Host+"/") }

// repository is a name without tag and digest.
func repository(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		name = name[:i]
	}
	return name
}

// canonical is a name of the Engine's in full, "" if it is none.
func canonical(name string) string {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return ""
	}
	return reference.TagNameOnly(ref).String()
}
