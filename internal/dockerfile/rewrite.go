package dockerfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// longLine is where the parser's limit for one line is near.
const longLine = 60 << 10

// Rewrite is the checked copy: the instructions of the stages that the target needs, each on one line, at its old line
// number where there is room. Images have the names that Resolve gave them. What is left out, comments, directives
// but for escape and check, and the contents of other stages, cannot be read in another way by the Engine.
func (f *File) Rewrite() ([]byte, error) {
	if _, err := f.Remotes(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	line := 1
	write := func(text string) {
		b.WriteString(text)
		b.WriteByte('\n')
		line += strings.Count(text, "\n") + 1
	}
	if f.escape != parser.DefaultEscapeToken {
		write("# escape=" + string(f.escape))
	}
	if f.check != "" {
		write("# check=" + f.check)
	}
	var written []*instruction
	f.lines = nil
	for _, in := range f.all {
		text, err := f.render(in)
		if err != nil {
			return nil, err
		}
		if text == "" {
			continue
		}
		for line < in.line() {
			write("")
		}
		at := line
		write(text)
		f.lines = append(f.lines, lines{at, line - 1, in.node.StartLine, max(in.node.StartLine, in.node.EndLine)})
		written = append(written, in)
	}
	return b.Bytes(), f.verify(b.Bytes(), written)
}

// render is one instruction of the copy, "" if it is left out.
func (f *File) render(in *instruction) (string, error) {
	text := strings.TrimSpace(in.node.Original)
	if in.stage >= 0 {
		s := f.stages[in.stage]
		switch {
		case in == s.from:
			return f.renderFrom(in.stage, s)
		case !s.needed || s.replaced:
			return "", nil
		}
	}
	var err error
	switch c := in.cmd.(type) {
	case *instructions.CopyCommand, *instructions.RunCommand, *instructions.AddCommand:
		if len(in.node.Flags) > 0 || in.sources != nil {
			if text, err = f.renderFlagged(in); err != nil {
				return "", err
			}
		}
	case *instructions.OnbuildCommand:
		if len(in.node.Heredocs) == 0 && strings.Contains(c.Expression, "\n") {
			return "", &Error{Line: in.line(), What: "ONBUILD has several lines"}
		}
	}
	for _, h := range in.node.Heredocs {
		text += "\n" + h.Content + h.Name
	}
	if len(in.node.Heredocs) == 0 && len(text) > longLine {
		return f.breakUp(in, text)
	}
	return text, nil
}

// renderFrom writes a FROM anew, with nothing left to expand.
func (f *File) renderFrom(i int, s *stage) (string, error) {
	name, err := f.expand(s.cmd.BaseName, f.globals)
	if err != nil {
		return "", f.mistake(err, s.from.line())
	}
	platform := ""
	switch {
	case !s.needed || s.scratch:
		name = scratch // never built: it is here for the numbers of the others
	case s.elsewhere != "":
		name = s.elsewhere
	case s.base.Name != "":
		img, ok := f.images[s.base]
		if !ok {
			return "", &Error{Line: s.from.line(), What: "nobody said what " + s.base.Name + " is"}
		}
		name = img.Name
	}
	if s.platform != "" && s.needed {
		platform = "--platform=" + s.platform + " "
	}
	text := "FROM " + platform + name
	if s.name != "" {
		text += " AS " + s.name
	}
	return text, nil
}

// renderFlagged writes an instruction with its flags anew.
func (f *File) renderFlagged(in *instruction) (string, error) {
	flags, err := f.flags(in)
	if err != nil {
		return "", err
	}
	written, ok := renderFlags(flags)
	if !ok {
		return "", &Error{Line: in.line(), What: "its flags have quotes or backslashes", Cure: "write flags without them"}
	}
	_, rest := splitFlags(in.node.Original, f.escape)
	if in.sources != nil {
		array, err := json.Marshal(in.literal(f.escape))
		if err != nil {
			return "", err
		}
		rest = string(array)
	}
	if strings.HasPrefix(rest, "--") {
		written += "-- "
	}
	return in.keyword() + " " + written + rest, nil
}

// literal are the words of an ADD, with nothing left to expand in its sources: what was checked is what is fetched.
func (i *instruction) literal(escape rune) []string {
	var out []string
	for _, src := range i.sources {
		var b strings.Builder
		for _, r := range src {
			if r == escape || strings.ContainsRune(`$'"`, r) {
				b.WriteRune(escape)
			}
			b.WriteRune(r)
		}
		out = append(out, b.String())
	}
	return append(out, i.cmd.(*instructions.AddCommand).DestPath)
}

// flags are an instruction's flags with the names that the copy has for stages and images.
func (f *File) flags(in *instruction) ([]string, error) {
	flags := slices.Clone(in.node.Flags)
	refs := in.refs
	for i, flag := range flags {
		name, value, _ := strings.Cut(flag, "=")
		switch {
		case name == "--from" && len(refs) > 0:
			to, err := f.rename(in, refs[0])
			if err != nil {
				return nil, err
			}
			flags[i] = "--from=" + to
		case name == "--mount" && len(refs) > 0:
			fields := strings.Split(value, ",")
			from := -1
			for j, field := range fields {
				if k, _, ok := strings.Cut(field, "="); ok && strings.EqualFold(k, "from") {
					from = j // the last one counts
				}
			}
			if from < 0 || fields[from][len("from="):] == "" {
				continue
			}
			to, err := f.rename(in, refs[0])
			if err != nil {
				return nil, err
			}
			refs = refs[1:]
			fields[from] = "from=" + to
			flags[i] = "--mount=" + strings.Join(fields, ",")
		}
	}
	return flags, nil
}

func (f *File) rename(in *instruction, r ref) (string, error) {
	switch {
	case r.elsewhere != "":
		return r.elsewhere, nil
	case r.base.Name == "":
		return r.name, nil
	}
	img, ok := f.images[r.base]
	if !ok {
		return "", &Error{Line: in.line(), What: "nobody said what " + r.base.Name + " is"}
	}
	return img.Name, nil
}

// breakUp divides a line that is longer than the parser takes at blanks, where the parser joins it again.
func (f *File) breakUp(in *instruction, text string) (string, error) {
	var b strings.Builder
	for len(text) > longLine {
		at := strings.LastIndexByte(text[:longLine], ' ')
		// What follows must not look like a comment or like nothing, nor may the break be escaped.
		for at > 0 && (strings.ContainsAny(text[at+1:at+2], " \t#") || strings.ContainsAny(text[at-1:at], " \t"+string(f.escape))) {
			at = strings.LastIndexByte(text[:at], ' ')
		}
		if at <= 0 {
			return "", &Error{Line: in.line(), What: "it is too long"}
		}
		b.WriteString(text[:at+1] + string(f.escape) + "\n")
		text = text[at+1:]
	}
	b.WriteString(text)
	return b.String(), nil
}

// verify reads the copy as the Engine will and compares it with what was checked.
func (f *File) verify(copied []byte, written []*instruction) error {
	parsed, err := parser.Parse(bytes.NewReader(copied))
	if err != nil {
		return &Error{Line: 1, What: fmt.Sprintf("it cannot be copied safely: %v", err)}
	}
	if len(parsed.AST.Children) != len(written) || parsed.EscapeToken != f.escape {
		return &Error{Line: 1, What: "it cannot be copied safely"}
	}
	for i, n := range parsed.AST.Children {
		in := written[i]
		same := strings.EqualFold(n.Value, in.node.Value)
		if !strings.EqualFold(n.Value, "from") {
			flags, err := f.flags(in)
			if err != nil {
				return err
			}
			words, array := args(in.node), in.node.Attributes["json"]
			if in.sources != nil {
				words, array = in.literal(f.escape), true
			}
			same = same && slices.Equal(n.Flags, flags) && slices.Equal(args(n), words) && slices.Equal(n.Heredocs, in.node.Heredocs) &&
				n.Attributes["json"] == array
		}
		if !same {
			return &Error{Line: in.line(), What: "it cannot be copied safely", Cure: "write it in a simpler way"}
		}
	}
	return nil
}

// args are the words behind an instruction.
func args(n *parser.Node) []string {
	var out []string
	for next := n.Next; next != nil; next = next.Next {
		for _, c := range next.Children {
			out = append(append(append(out, c.Value), c.Flags...), args(c)...)
		}
		out = append(out, next.Value)
	}
	return out
}

// Written maps the copy's names for images back to those of the Dockerfile.
func (f *File) Written() map[string]string {
	out := map[string]string{}
	for b, img := range f.images {
		out[img.Name] = b.Name
	}
	return out
}
