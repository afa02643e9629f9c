package guard

import "net/http"

// streamKeys are the query keys of attaching to a container.
var streamKeys = []string{"stream", "logs", "stdin", "stdout", "stderr", "detachKeys"}

func containerAttach(c *call) error {
	_, path, err := c.ownPath("/attach")
	if err != nil {
		return err
	}
	return c.hijack(path, c.pick(streamKeys...), nil)
}

// containerAttachWebsocket is for browsers: no client of a job speaks it, and it would be a second way in.
func containerAttachWebsocket(c *call) error {
	_, path, err := c.ownPath("/attach/ws")
	if err != nil {
		return err
	}
	if err := c.refuse(deny("attach-ws", "use POST /containers/{id}/attach, as docker attach does", "attaching by WebSocket")); err != nil {
		return err
	}
	return c.forward(http.MethodGet, path, c.pick(streamKeys...), nil)
}
