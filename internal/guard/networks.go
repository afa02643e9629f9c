package guard

import "context"

func networkList(c *call) error       { return c.notYet() }
func networkCreate(c *call) error     { return c.notYet() }
func networkPrune(c *call) error      { return c.notYet() }
func networkInspect(c *call) error    { return c.notYet() }
func networkConnect(c *call) error    { return c.notYet() }
func networkDisconnect(c *call) error { return c.notYet() }
func networkRemove(c *call) error     { return c.notYet() }

// defaultNetwork makes sure of the job's default network and returns its full ID. It is made when it is first needed, and
// the job's container joins it.
func (g *Guard) defaultNetwork(ctx context.Context) (string, error) { return "", errNotYet }
