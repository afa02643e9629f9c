package pipeline

// position is a place in the file, from 1; zero is the file as a whole.
type position struct{ line, col int }

type kind int

const (
	kindNull kind = iota
	kindString
	kindBool
	kindNumber
	kindSymbol
	kindList
	kindMap
)

func (k kind) String() string {
	return [...]string{"nothing", "a string", "a boolean", "a number", "a symbol", "a list", "a mapping"}[k]
}

// value is a piece of the file after aliases and merge keys are gone.
type value struct {
	position
	kind    kind
	text    string // of a scalar, as GitLab prints it
	items   []*value
	entries []entry // keys once each, in the order of their first appearance
}

type entry struct {
	key   string
	at    position // of the key
	value *value
}

// get returns what a mapping has under a key, nil for nothing.
//
// GitLab: a key without a value is as good as no key.
func (v *value) get(key string) *value {
	if v == nil {
		return nil
	}
	for _, e := range v.entries {
		if e.key == key && e.value.kind != kindNull {
			return e.value
		}
	}
	return nil
}

// isScalar reports whether v is one value with a text, not nothing.
func (v *value) isScalar() bool {
	switch v.kind {
	case kindString, kindBool, kindNumber, kindSymbol:
		return true
	}
	return false
}
