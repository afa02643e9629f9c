package runner

// GitLab: the factors of FF_USE_ADAPTIVE_REQUEST_CONCURRENCY.
const (
	growth        = 1.1
	shrink        = 0.95
	pushbackCut   = 0.5
	adaptiveFlag  = "FF_USE_ADAPTIVE_REQUEST_CONCURRENCY"
	adaptiveFloor = 1
)

// adaptive is how many requests of one runner may be in flight. It follows what the server answers, between one and
// request_concurrency: a busy queue is asked by several requests, an empty or overloaded one by a single one.
type adaptive struct {
	ceiling float64 // request_concurrency
	fixed   bool    // the feature flag is off: always the ceiling
	value   float64
}

func newAdaptive(requestConcurrency int, flags map[string]bool) adaptive {
	on, set := flags[adaptiveFlag]
	return adaptive{
		ceiling: float64(max(requestConcurrency, adaptiveFloor)),
		fixed:   set && !on,
		value:   adaptiveFloor,
	}
}

// limit is the number of requests that may be in flight.
func (a *adaptive) limit() int {
	if a.fixed {
		return int(a.ceiling)
	}
	return int(a.value)
}

func (a *adaptive) gotJob()     { a.scale(growth) }
func (a *adaptive) gotNothing() { a.scale(shrink) }
func (a *adaptive) pushedBack() { a.scale(pushbackCut) }

func (a *adaptive) scale(by float64) {
	a.value = min(max(a.value*by, adaptiveFloor), a.ceiling)
}
