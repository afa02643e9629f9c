package guard

import (
	"fmt"
	"net/http"
)

// refusedGroups are parts of the API that no job gets, with what to do instead.
var refusedGroups = map[string]string{
	"/swarm":    "a job runs its containers on this machine alone",
	"/services": "a job runs its containers on this machine alone",
	"/tasks":    "a job runs its containers on this machine alone",
	"/nodes":    "a job runs its containers on this machine alone",
	"/secrets":  "pass secrets as variables, or to a build as --secret",
	"/configs":  "pass configuration as files",
	"/plugins":  "ask the machine's operator to install plugins",
	"/debug":    "",
}

// noSwarm says what an Engine outside of a swarm says.
func noSwarm(*call) error {
	return &apiError{http.StatusServiceUnavailable, `This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`}
}

func noPlugins(c *call) error {
	c.json(http.StatusOK, []any{})
	return nil
}

// noPlugin is for docker inspect, which asks for a plugin when there is nothing else of a name.
func noPlugin(c *call) error {
	return &apiError{http.StatusNotFound, fmt.Sprintf("plugin %q not found", printable(c.vars["name"]))}
}

// noContainerOfName answers for names with slashes, which no container has.
func noContainerOfName(c *call) error { return noContainer(c.vars["name"]) }
