package guard

func containerAttach(c *call) error          { return c.notYet() }
func containerAttachWebsocket(c *call) error { return c.notYet() }
func execCreate(c *call) error               { return c.notYet() }
func execInspect(c *call) error              { return c.notYet() }
func execStart(c *call) error                { return c.notYet() }
func execResize(c *call) error               { return c.notYet() }
