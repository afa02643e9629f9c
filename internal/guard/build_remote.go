package guard

import (
	"context"
	"errors"
	"net/url"
	"strings"

	"github.com/slipway-ci/slipway/internal/address"
	"github.com/slipway-ci/slipway/internal/dockerfile"
)

// checkRemote decides over what ADD fetches: the Engine does it from the machine's own network, where it reaches what no
// container of the job does. The guard asks for the address first, and follows where that leads. A server that answers
// the Engine otherwise than the guard can still send it elsewhere: only a firewall on the Engine's machine prevents that.
func (c *call) checkRemote(ctx context.Context, r dockerfile.Remote) error {
	if r.Git {
		return c.refuse(deny("build-remote", "fetch it in the job and COPY it", "line %d of the Dockerfile: the Engine would fetch the repository %s itself",
			r.Line, shownURL(r.URL)))
	}
	err := address.Ask(ctx, r.URL)
	if err == nil {
		return nil
	}
	var internal *address.InternalError
	if errors.As(err, &internal) {
		return c.refuse(deny("add-internal", "fetch it in the job and COPY it", "line %d of the Dockerfile: ADD %s leads to %s, an address of the machine or its network",
			r.Line, shownURL(r.URL), internal.Address))
	}
	var failed *url.Error // it has the whole URL in it
	if errors.As(err, &failed) {
		err = failed.Err
	}
	return badRequest("line %d of the Dockerfile: ADD %s: %v", r.Line, shownURL(r.URL), err)
}

// shownURL is a URL for messages and logs, without the credentials and the query that may be in it.
func shownURL(text string) string {
	text, _, _ = strings.Cut(text, "?")
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return printable(text)
	}
	host, path, _ := strings.Cut(rest, "/")
	return printable(scheme + "://" + host[strings.LastIndex(host, "@")+1:] + "/" + path)
}
