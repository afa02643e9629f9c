package trace

import "slices"

// masked stands where something secret was.
const masked = "[MASKED]"

// sink is the next writer of the chain. It must not keep the slice. It reports nothing: the last one, the spool,
// keeps its error to itself, because a job goes on when its log cannot.
type sink func(p []byte)

// valueMask hides every byte that belongs to an occurrence of a masked value; occurrences that overlap become one
// [MASKED]. It holds back only what may be the beginning of a value.
type valueMask struct {
	values *matcher
	next   sink
	state  int32  // after held
	held   []byte // not passed on yet
	at     int    // where in the whole text held begins
	spans  []span // what is to be hidden in held: ordered, not overlapping
	out    []byte
}

// span is a piece of the text to hide, from byte start to before byte end.
type span struct {
	start, end int
	shown      bool // its [MASKED] is out already, for a part that is no longer held
}

func (m *valueMask) write(p []byte) {
	n := len(m.held)
	m.held = append(m.held, p...)
	m.scan(n)
	m.letMost()
}

// writeLast writes p and lets go of all that is held, in one piece: nothing more comes that could make it a value.
func (m *valueMask) writeLast(p []byte) {
	n := len(m.held)
	m.held = append(m.held, p...)
	m.scan(n)
	m.release()
}

// scan looks at what is held from byte from on.
func (m *valueMask) scan(from int) {
	for i := from; i < len(m.held); i++ {
		if m.state == 0 {
			i += m.values.skip(m.held[i:])
			if i == len(m.held) {
				break
			}
		}
		m.state = m.values.step(m.state, m.held[i])
		if n := m.values.nodes[m.state].match; n > 0 {
			end := m.at + i + 1
			m.hide(span{start: end - n, end: end})
		}
	}
}

// letMost lets go of what begins no value.
func (m *valueMask) letMost() { m.let(len(m.held) - m.values.nodes[m.state].hold) }

func (m *valueMask) hide(s span) {
	for len(m.spans) > 0 && m.spans[len(m.spans)-1].end > s.start {
		last := m.spans[len(m.spans)-1]
		m.spans = m.spans[:len(m.spans)-1]
		s = span{start: min(s.start, last.start), end: max(s.end, last.end), shown: last.shown}
	}
	m.spans = append(m.spans, s)
}

// let passes on the first n held bytes, or what hides them.
func (m *valueMask) let(n int) {
	m.out = m.out[:0]
	to, at, done := m.at+n, m.at, 0
	for i := range m.spans {
		s := &m.spans[i]
		if s.start >= to {
			break
		}
		m.out = append(m.out, m.held[at-m.at:s.start-m.at]...)
		if !s.shown {
			m.out = append(m.out, masked...)
		}
		at = min(s.end, to)
		s.start, s.shown = at, true
		if s.end <= to {
			done++
		}
	}
	m.out = append(m.out, m.held[at-m.at:n]...)
	m.spans = slices.Delete(m.spans, 0, done)
	m.held = slices.Delete(m.held, 0, n)
	m.at = to
	if len(m.out) > 0 {
		m.next(m.out)
	}
}

// release lets go of what is held: nothing more comes that could make it a value.
func (m *valueMask) release() {
	m.state = 0
	m.let(len(m.held))
}

// use changes the values. They must include the old ones. What is held is looked at again.
func (m *valueMask) use(values *matcher) {
	m.values, m.state = values, 0
	if len(m.spans) > 0 && m.spans[0].shown {
		m.spans = m.spans[:1] // began in what is no longer held; the others are found again
	} else {
		m.spans = nil
	}
	m.scan(0)
	m.letMost()
}

// markMask hides what follows one of its marks ("?private_token=", "glpat-"), up to a byte that ends it. It holds
// nothing back, for the mark itself is no secret.
type markMask struct {
	marks  *matcher
	ends   *[256]bool
	next   sink
	state  int32
	hiding bool
	shown  bool // [MASKED] is out for what is being hidden
	out    []byte
}

func (m *markMask) write(p []byte) {
	m.out = m.out[:0]
	from := 0 // what of p is not in out yet
	for i := 0; i < len(p); i++ {
		if m.hiding {
			if i = m.pass(p, i); m.hiding {
				from = i
				break
			}
			from = i
		}
		if m.state == 0 {
			i += m.marks.skip(p[i:])
			if i == len(p) {
				break
			}
		}
		m.state = m.marks.step(m.state, p[i])
		if m.marks.nodes[m.state].match > 0 {
			m.out = append(m.out, p[from:i+1]...)
			from = i + 1
			m.state, m.hiding, m.shown = 0, true, false
		}
	}
	if from > 0 {
		p = append(m.out, p[from:]...)
		m.out = p
	}
	if len(p) > 0 {
		m.next(p)
	}
}

// pass goes on to what ends the secret at p[i:], len(p) if nothing does.
func (m *markMask) pass(p []byte, i int) int {
	begin := i
	for i < len(p) && !m.ends[p[i]] {
		i++
	}
	if i > begin && !m.shown {
		m.out = append(m.out, masked...)
		m.shown = true
	}
	m.hiding = i == len(p)
	return i
}

// release forgets a mark that was begun: what comes next belongs to another text.
func (m *markMask) release() { m.state, m.hiding = 0, false }

// mask is the chain of all that hides secrets: values, then URL parameters, then tokens.
type mask struct {
	values *valueMask
	urls   *markMask
	tokens *markMask
}

// secrets is what masks share.
type secrets struct {
	values, params, prefixes *matcher
	paramEnds, tokenEnds     *[256]bool
}

func (s secrets) mask(next sink) *mask {
	tokens := &markMask{marks: s.prefixes, ends: s.tokenEnds, next: next}
	urls := &markMask{marks: s.params, ends: s.paramEnds, next: tokens.write}
	return &mask{&valueMask{values: s.values, next: urls.write}, urls, tokens}
}

// slice bounds the memory that a long write takes on its way through the chain, in bytes.
const slice = 32 << 10

func (m *mask) write(p []byte) {
	for len(p) > slice {
		m.values.write(p[:slice])
		p = p[slice:]
	}
	m.values.write(p)
}

// writeLast writes p, which is a whole, in one piece.
func (m *mask) writeLast(p []byte) {
	m.values.writeLast(p)
	m.urls.release()
	m.tokens.release()
}

// release passes on what is held back and forgets what was begun.
func (m *mask) release() { m.writeLast(nil) }
