package guard

func containerList(c *call) error    { return c.notYet() }
func containerPrune(c *call) error   { return c.notYet() }
func containerInspect(c *call) error { return c.notYet() }
func containerTop(c *call) error     { return c.notYet() }
func containerLogs(c *call) error    { return c.notYet() }
func containerChanges(c *call) error { return c.notYet() }
func containerStats(c *call) error   { return c.notYet() }
func containerExport(c *call) error  { return c.notYet() }
func containerStart(c *call) error   { return c.notYet() }
func containerStop(c *call) error    { return c.notYet() }
func containerRestart(c *call) error { return c.notYet() }
func containerKill(c *call) error    { return c.notYet() }
func containerPause(c *call) error   { return c.notYet() }
func containerUnpause(c *call) error { return c.notYet() }
func containerWait(c *call) error    { return c.notYet() }
func containerResize(c *call) error  { return c.notYet() }
func containerRename(c *call) error  { return c.notYet() }
func containerRemove(c *call) error  { return c.notYet() }
