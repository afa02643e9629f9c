package guard

func imagePush(c *call) error    { return c.notYet() }
func imageSearch(c *call) error  { return c.notYet() }
func distribution(c *call) error { return c.notYet() }
