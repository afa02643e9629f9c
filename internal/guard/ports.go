package guard

import "context"

// ports opens the ports that containers of the job publish.
type ports struct{ g *Guard }

func newPorts(g *Guard) *ports { return &ports{g: g} }

// started opens the ports of a container that runs now. The error is told to the client.
func (p *ports) started(ctx context.Context, id string) error { return nil }

// stopped closes the ports of a container that does not run any more.
func (p *ports) stopped(id string) {}

// moved forgets the addresses of a container that joined or left a network.
func (p *ports) moved(id string) {}

// of is what a container's ports are open at: what goes into NetworkSettings.Ports and a list's Ports.
func (p *ports) of(id string) []openPort { return nil }

// openPort is a published port that is open.
type openPort struct {
	portRequest
	Open uint16 // where it is open, in the job's network namespace
}

func (p *ports) close() {}

// reopen opens all ports again, in the new network namespace of the job's container.
func (p *ports) reopen(ctx context.Context) error { return nil }
