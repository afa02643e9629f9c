package guard

import "context"

func volumeList(c *call) error    { return c.notYet() }
func volumeCreate(c *call) error  { return c.notYet() }
func volumePrune(c *call) error   { return c.notYet() }
func volumeInspect(c *call) error { return c.notYet() }
func volumeRemove(c *call) error  { return c.notYet() }

// ensureVolume makes sure of an own volume by the job's name for it and returns the Engine's name.
func (c *call) ensureVolume(ctx context.Context, name string) (string, error) { return "", errNotYet }
