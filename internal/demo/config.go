package demo

import (
	"fmt"
	"strconv"
	"strings"
)

// defaultSocket is where the article's config.toml has the Engine's socket, and where jobs have it.
const defaultSocket = "/var/run/docker.sock"

// runnerConfig is the article's config.toml with a URL and a token. An Engine whose socket is elsewhere than usual
// changes the host's side of the socket volume and adds the runner's own way to that Engine.
func runnerConfig(url, token, socket string) string {
	text := strings.NewReplacer(`"URL"`, strconv.Quote(url), `"TOKEN"`, strconv.Quote(token)).Replace(sampleConfig)
	if socket == defaultSocket {
		return text
	}
	return strings.NewReplacer(
		strconv.Quote(defaultSocket+":"+defaultSocket), strconv.Quote(socket+":"+defaultSocket),
		"[runners.docker]\n", "[runners.docker]\n    host = "+strconv.Quote("unix://"+socket)+"\n",
	).Replace(text)
}

// LocalSocket gives the path of the Engine's socket, and refuses an Engine that is not on this machine.
func LocalSocket(host string) (string, error) {
	if socket, ok := strings.CutPrefix(host, "unix://"); ok && socket != "" {
		return socket, nil
	}
	return "", &Error{
		Err: fmt.Errorf("the Docker Engine is at %s: the demo needs one on this machine, because its registry is on 127.0.0.1", host),
		Hint: "run slipway demo on the Engine's own machine\n" +
			"or use an Engine of this machine: unset DOCKER_HOST, or DOCKER_HOST=unix:///path/of/docker.sock",
	}
}
