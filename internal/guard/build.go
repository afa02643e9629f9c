package guard

func build(c *call) error       { return c.notYet() }
func buildPrune(c *call) error  { return c.notYet() }
func buildCancel(c *call) error { return c.notYet() }

// builds are the builds and sessions of the job.
type builds struct{ g *Guard }

func newBuilds(g *Guard) *builds { return &builds{g: g} }

func (b *builds) close() {}
