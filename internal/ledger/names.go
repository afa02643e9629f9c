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

// maxName is how long a name may be without its tag, by the grammar of names.
const maxName = reference.NameTotalLengthMax

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
