package source

import (
	"fmt"
	"net/url"
	"strconv"

	"github.com/slipway-ci/slipway/internal/job"
)

// JobEnv returns the variables that make Git work inside the job's container: it trusts folders of other owners, and
// it reaches the server of remoteURL as the job without the token being in any file or in a process's arguments, which
// all users of the machine can read. They follow the entries that vars has already (GIT_CONFIG_COUNT and its keys). One
// is the token, none is to be expanded, and none is for services.
func JobEnv(vars job.Variables, remoteURL string, token job.Secret) job.Variables {
	settings := []setting{{"safe.directory", "*"}}
	var out job.Variables
	u, err := url.Parse(remoteURL)
	if err == nil && token != "" && (u.Scheme == "http" || u.Scheme == "https") {
		settings = append(settings, setting{"credential." + baseURL(u) + ".helper", credentialHelper})
		out = append(out, job.Variable{Key: tokenVariable, Value: token.Reveal(), Masked: true, Raw: true})
	}
	// What is not a number makes Git refuse to run at all; ours take its place.
	first, err := strconv.Atoi(vars.Get("GIT_CONFIG_COUNT"))
	if err != nil || first < 0 {
		first = 0
	}
	out = append(out, job.Variable{Key: "GIT_CONFIG_COUNT", Value: strconv.Itoa(first + len(settings)), Raw: true})
	for i, s := range settings {
		out = append(out,
			job.Variable{Key: fmt.Sprintf("GIT_CONFIG_KEY_%d", first+i), Value: s.key, Raw: true},
			job.Variable{Key: fmt.Sprintf("GIT_CONFIG_VALUE_%d", first+i), Value: s.value, Raw: true})
	}
	return out
}
