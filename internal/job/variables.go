package job

import (
	"cmp"
	"os"
	"slices"
)

// Variable is one CI/CD variable.
type Variable struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Public bool   `json:"public"`
	File   bool   `json:"file"`   // the value is the content of a file, the variable its path
	Masked bool   `json:"masked"` // the value must not be seen in the log
	Raw    bool   `json:"raw"`    // the value is not expanded
}

// Variables is a list in order of precedence: of two with one key, the later wins.
type Variables []Variable

// Get returns the value of the last variable with that key, "" without one.
func (vs Variables) Get(key string) string {
	v, _ := vs.Lookup(key)
	return v.Value
}

// Lookup returns the last variable with that key and whether there is one.
func (vs Variables) Lookup(key string) (Variable, bool) {
	for _, v := range slices.Backward(vs) {
		if v.Key == key {
			return v, true
		}
	}
	return Variable{}, false
}

// Bool reads a switch.
//
// GitLab: everything that Go's strconv.ParseBool takes for true is true; all else, nonsense too, is false.
func (vs Variables) Bool(key string) bool {
	switch vs.Get(key) {
	case "1", "t", "T", "true", "TRUE", "True":
		return true
	}
	return false
}

// Unique keeps the winner of each key, in the place where the key first appeared.
func (vs Variables) Unique() Variables {
	at := make(map[string]int, len(vs))
	out := make(Variables, 0, len(vs))
	for _, v := range vs {
		if i, ok := at[v.Key]; ok {
			out[i] = v
			continue
		}
		at[v.Key] = len(out)
		out = append(out, v)
	}
	return out
}

// Expanded returns the winners with each value expanded once against the whole set as it was before.
// filePath gives the path that a file variable stands for.
//
// GitLab: one pass, so a reference inside an inserted value stays as it is; raw variables are left alone; a file
// variable's own value (the content of the file) is expanded, and it inserts its path into others.
func (vs Variables) Expanded(filePath func(key string) string) Variables {
	out := vs.Unique()
	lookup := make(map[string]string, len(out))
	for _, v := range out {
		if v.File {
			v.Value = filePath(v.Key)
		}
		lookup[v.Key] = v.Value
	}
	for i, v := range out {
		if !v.Raw {
			out[i].Value = expand(v.Value, lookup)
		}
	}
	return out
}

// Expand replaces $NAME and ${NAME} in s by the values of vs. What vs does not have becomes empty, $$ becomes $.
func (vs Variables) Expand(s string) string {
	lookup := make(map[string]string, len(vs))
	for _, v := range vs {
		lookup[v.Key] = v.Value
	}
	return expand(s, lookup)
}

// expand: GitLab's runner uses os.Expand too, so what a shell would take as special parameters ($1, $@, $*) becomes
// empty like every unknown name; $$ stands for one $.
func expand(s string, lookup map[string]string) string {
	return os.Expand(s, func(name string) string {
		if name == "$" {
			return "$"
		}
		return lookup[name]
	})
}

// MaskedValues are the values that must not be seen in the log, longest first, without doubles and empties.
func (vs Variables) MaskedValues() []string {
	var out []string
	for _, v := range vs {
		if v.Masked && v.Value != "" {
			out = append(out, v.Value)
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	slices.SortStableFunc(out, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return out
}
