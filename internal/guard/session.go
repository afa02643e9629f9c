package guard

func session(c *call) error     { return c.notYet() }
func grpcRefused(c *call) error { return c.notYet() }
