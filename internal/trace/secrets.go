package trace

import (
	"slices"
	"strings"
)

// maxPrefixes is how many of a payload's token prefixes count.
//
// GitLab: its runner stops there too.
const maxPrefixes = 15

// alwaysMasked begins GitLab's personal access tokens.
const alwaysMasked = "glpat-"

// defaultTokens are what GitLab's other tokens begin with.
//
// GitLab: masked with FF_MASK_ALL_DEFAULT_TOKENS.
func defaultTokens() []string {
	return []string{
		"gloas-", "gldt-", "glrt-", "glcbt-", "glrtr-", "glptt-", "glft-", "glimt-", "glagent-", "glsoat-", "glffct-",
		"_gitlab_session=", "gltok-",
	}
}

func newSecrets(o Options) secrets {
	prefixes := append([]string{alwaysMasked}, o.MaskPrefixes[:min(maxPrefixes, len(o.MaskPrefixes))]...)
	if o.MaskDefaultTokens {
		prefixes = append(prefixes, defaultTokens()...)
	}
	return secrets{
		values:    newMatcher(o.Masked, false),
		params:    newMatcher(urlParameters(), true),
		prefixes:  newMatcher(prefixes, false),
		paramEnds: paramEnds(),
		tokenEnds: tokenEnds(),
	}
}

// urlParameters are the marks of URL query parameters whose values are secret.
func urlParameters() []string {
	var out []string
	for _, name := range []string{
		"private_token", "authenticity_token", "rss_token",
		"x-amz-signature", "x-amz-credential", "x-amz-security-token",
	} {
		out = append(out, "?"+name+"=", "&"+name+"=")
	}
	return out
}

// paramEnds are the bytes that end the value of a URL parameter: &, quotes, brackets of Markdown and HTML are not
// part of a written URL, nor are white space and control bytes (the beginning of a colour, too).
func paramEnds() *[256]bool {
	var ends [256]bool
	for b := range ends {
		ends[b] = b <= ' ' || b == 0x7f || strings.IndexByte(`&"'<>`+"`", byte(b)) >= 0
	}
	return &ends
}

// tokenEnds are the bytes that cannot be in a token.
func tokenEnds() *[256]bool {
	var ends [256]bool
	for b := range ends {
		c := byte(b)
		ends[b] = (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') &&
			!slices.Contains([]byte("_.=-"), c)
	}
	return &ends
}
