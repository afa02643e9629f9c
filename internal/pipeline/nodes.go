package pipeline

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// The size of a file before and after its aliases are resolved. GitLab has limits of the same kind.
const (
	maxBytes  = 2 << 20
	maxValues = 200_000
	maxDepth  = 100
)

// parse turns the text into values the way GitLab's YAML library (Psych) does. The YAML library is asked for bare nodes
// only, because aliases, merge keys, duplicate keys and scalars mean something else to it.
func (r *reader) parse(data []byte) *value {
	if len(data) > maxBytes {
		r.errorf(position{}, "", "the file has %d bytes, more than %d", len(data), maxBytes)
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		r.errorf(position{}, "a pipeline needs at least one job with a script", "the file is empty")
		return nil
	}
	if err != nil {
		r.syntaxError(data, err)
		return nil
	}
	if err := dec.Decode(&second); err == nil {
		// GitLab: without a header that has spec:, only the first document counts.
		r.warnf(at(&second), "", "only the first document of the file is read")
	} else if !errors.Is(err, io.EOF) {
		r.syntaxError(data, err)
		return nil
	}
	if len(doc.Content) != 1 {
		r.errorf(position{}, "", "the file is empty")
		return nil
	}
	c := &converter{reader: r, left: maxValues, open: map[*yaml.Node]bool{}}
	return c.value(doc.Content[0], 0)
}

var (
	yamlMessage   = regexp.MustCompile(`^yaml: (?:line (\d+): )?((?s:.*))$`)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
)

// syntaxError finds the line of the YAML library's complaint.
func (r *reader) syntaxError(data []byte, err error) {
	m := yamlMessage.FindStringSubmatch(err.Error())
	if m == nil {
		r.errorf(position{}, "", "%v", err)
		return
	}
	line, _ := strconv.Atoi(m[1])
	if a := unknownAnchor.FindStringSubmatch(m[2]); a != nil {
		if i := bytes.Index(data, []byte("*"+a[1])); i >= 0 {
			line = 1 + bytes.Count(data[:i], []byte("\n"))
		}
		r.errorf(position{line: line}, "an anchor (&"+a[1]+") must stand before its alias", "unknown anchor %q", a[1])
		return
	}
	r.errorf(position{line: line}, "", "%s", m[2])
}

// converter resolves one document. It stops at the first error: what comes after an alias bomb is of no interest.
type converter struct {
	*reader
	left int                 // how many values may still be made; aliases count each time they are used
	open map[*yaml.Node]bool // what is being converted, to see an alias inside its own anchor
}

func at(n *yaml.Node) position { return position{n.Line, n.Column} }

func (c *converter) value(n *yaml.Node, depth int) *value {
	null := &value{position: at(n)}
	c.left--
	switch {
	case len(c.errs) > 0:
		return null
	case c.left < 0:
		c.errorf(at(n), "", "the file is too big once its aliases are resolved")
		return null
	case depth > maxDepth:
		c.errorf(at(n), "", "more than %d levels of nesting", maxDepth)
		return null
	case c.open[n]:
		c.errorf(at(n), "", "the anchor %q contains its own alias", n.Anchor)
		return null
	case n.Tag == "!reference":
		c.errorf(at(n), "", "!reference is not supported yet")
		return null
	}
	c.open[n] = true
	defer delete(c.open, n)
	switch n.Kind {
	case yaml.AliasNode:
		return c.value(n.Alias, depth)
	case yaml.SequenceNode:
		v := &value{position: at(n), kind: kindList}
		for _, item := range n.Content {
			v.items = append(v.items, c.value(item, depth+1))
		}
		return v
	case yaml.MappingNode:
		return c.mapping(n, depth)
	case yaml.ScalarNode:
		return c.scalar(n)
	}
	return null
}

func (c *converter) scalar(n *yaml.Node) *value {
	const notPlain = yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle
	if n.Style&notPlain != 0 || n.ShortTag() == "!!str" && n.Style&yaml.TaggedStyle != 0 {
		return &value{position: at(n), kind: kindString, text: n.Value}
	}
	k, text, ok := resolveScalar(n.Value)
	if !ok {
		c.errorf(at(n), "put it in quotes", "%q is a date for GitLab, and dates are not allowed", n.Value)
	}
	return &value{position: at(n), kind: k, text: text}
}

// mapping applies keys and merge keys in the order of the file.
//
// GitLab: the last one wins, also when it is a merge key after a plain key; of a list of merged mappings the first wins.
func (c *converter) mapping(n *yaml.Node, depth int) *value {
	m := &mapBuilder{v: &value{position: at(n), kind: kindMap}, index: map[string]int{}}
	written := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := c.value(n.Content[i], depth+1)
		val := c.value(n.Content[i+1], depth+1)
		if len(c.errs) > 0 {
			break
		}
		if !key.isScalar() && key.kind != kindNull {
			c.errorf(key.position, "", "a key must be a string, not %v", key.kind)
			break
		}
		if key.text == "<<" && c.merge(m, n.Content[i+1], val) {
			continue
		}
		if written[key.text] && key.text != "<<" {
			c.warnf(key.position, "", "%q is given twice in one mapping; the last one counts", key.text)
		}
		written[key.text] = true
		m.set(entry{key.text, key.position, val})
	}
	return m.v
}

// merge copies what a merge key names, and reports whether it is something that can be merged.
func (c *converter) merge(m *mapBuilder, n *yaml.Node, val *value) bool {
	var sources []*value
	switch {
	case val.kind == kindMap:
		sources = []*value{val}
	case val.kind == kindList && n.Kind == yaml.SequenceNode:
		for _, item := range val.items {
			if item.kind != kindMap {
				return false
			}
			sources = append([]*value{item}, sources...)
		}
	default:
		return false
	}
	for _, s := range sources {
		for _, e := range s.entries {
			m.set(e)
		}
	}
	return true
}

type mapBuilder struct {
	v     *value
	index map[string]int
}

func (m *mapBuilder) set(e entry) {
	if i, ok := m.index[e.key]; ok {
		m.v.entries[i] = e
		return
	}
	m.index[e.key] = len(m.v.entries)
	m.v.entries = append(m.v.entries, e)
}
