package guard

func ping(c *call) error      { return c.notYet() }
func version(c *call) error   { return c.notYet() }
func info(c *call) error      { return c.notYet() }
func events(c *call) error    { return c.notYet() }
func diskUsage(c *call) error { return c.notYet() }
func login(c *call) error     { return c.notYet() }
