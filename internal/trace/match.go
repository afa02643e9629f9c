package trace

// matcher finds many strings in one pass (Aho and Corasick's automaton). It is immutable, so that streams share it.
// A state stands for the longest beginning of any string that the text read so far ends with; 0 is none.
type matcher struct {
	root  [256]int32 // the state after a single byte
	fold  [256]byte  // what a byte counts as: itself, or its lower case
	nodes []node     // by state; nodes[0] is unused
}

type node struct {
	b              byte
	child, sibling int32 // the first longer state, and the next state that is as long
	fail           int32 // the longest shorter state that the text ends with too
	depth          int   // length of the beginning that the state stands for
	match          int   // length of the longest string that ends here, 0 = none
	hold           int   // how much of the end of the text may be the beginning of a longer one
}

// newMatcher ignores empty strings. With ignoreCase, ASCII letters match in either case.
func newMatcher(strings []string, ignoreCase bool) *matcher {
	m := &matcher{nodes: make([]node, 1)}
	for i := range m.fold {
		m.fold[i] = byte(i)
		if ignoreCase && i >= 'A' && i <= 'Z' {
			m.fold[i] = byte(i) + 'a' - 'A'
		}
	}
	for _, s := range strings {
		m.add(s)
	}
	m.link()
	for i := range m.root {
		m.root[i] = m.root[m.fold[i]]
	}
	return m
}

func (m *matcher) add(s string) {
	state := int32(0)
	for i := range len(s) {
		b := m.fold[s[i]]
		next := m.child(state, b)
		if next == 0 {
			next = int32(len(m.nodes))
			n := node{b: b, depth: i + 1}
			if state == 0 {
				m.root[b] = next
			} else {
				n.sibling = m.nodes[state].child
				m.nodes[state].child = next
			}
			m.nodes = append(m.nodes, n)
		}
		state = next
	}
	m.nodes[state].match = len(s)
}

// link sets fail, match and hold, shorter states first: those of a state follow from those of shorter ones.
func (m *matcher) link() {
	var queue []int32
	for _, state := range m.root {
		if state != 0 {
			queue = append(queue, state)
		}
	}
	for len(queue) > 0 {
		n := &m.nodes[queue[0]]
		queue = queue[1:]
		if n.hold = m.nodes[n.fail].hold; n.child != 0 {
			n.hold = n.depth
		}
		for c := n.child; c != 0; c = m.nodes[c].sibling {
			fail := m.step(n.fail, m.nodes[c].b)
			m.nodes[c].fail = fail
			if m.nodes[c].match == 0 {
				m.nodes[c].match = m.nodes[fail].match
			}
			queue = append(queue, c)
		}
	}
}

func (m *matcher) child(state int32, b byte) int32 {
	if state == 0 {
		return m.root[b]
	}
	c := m.nodes[state].child
	for c != 0 && m.nodes[c].b != b {
		c = m.nodes[c].sibling
	}
	return c
}

// step is the state after one more byte.
func (m *matcher) step(state int32, b byte) int32 {
	b = m.fold[b]
	for state != 0 {
		if c := m.child(state, b); c != 0 {
			return c
		}
		state = m.nodes[state].fail
	}
	return m.root[b]
}

// skip is how many bytes at the beginning of p begin none of the strings.
func (m *matcher) skip(p []byte) int {
	for i, b := range p {
		if m.root[b] != 0 {
			return i
		}
	}
	return len(p)
}
