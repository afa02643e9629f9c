package dockerfile

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// The parsers of the Engine's versions differ. What one of them could read in another way than this package does must
// not reach it: an instruction that only the Engine sees was never checked. Joined lines, comments, directives and
// names are made alike by the rewritten copy; the rest is refused here.
func (f *File) ambiguous(n *parser.Node) error {
	mistake := func(what, cure string) error { return &Error{Line: n.StartLine, What: what, Cure: cure} }
	takesHeredoc := slices.Contains([]string{"run", "copy", "add", "onbuild"}, strings.ToLower(n.Value))
	switch {
	case len(n.Heredocs) > 0 && !f.o.Heredocs:
		return mistake("it has a here-document (<<"+n.Heredocs[0].Name+"), which this Engine does not know",
			"Docker Engine 23.0 and later have it; use a script or \\ at the ends of lines")
	case f.o.Heredocs && takesHeredoc && oddHeredoc(n.Original):
		return mistake("it is not clear to all versions of the Engine where a here-document begins",
			"write << without \\, ` and ${…:…} in the same line, or use a script")
	}
	switch strings.ToLower(n.Value) {
	case "add", "copy", "run", "from", "onbuild":
	default:
		return nil
	}
	flags, rest := splitFlags(n.Original, f.escape)
	if f.escape != '\\' && strings.ContainsAny(flags, "\\`") {
		return mistake("its flags have escaped characters", "write flags without them")
	}
	if v := strings.ToLower(n.Value); v == "add" || v == "copy" {
		// Older parsers take a JSON array with anything behind it.
		var array []any
		if !n.Attributes["json"] && strings.HasPrefix(rest, "[") && json.NewDecoder(strings.NewReader(rest)).Decode(&array) == nil {
			return mistake("there is something behind its JSON array", "")
		}
	}
	for _, flag := range n.Flags {
		if strings.HasPrefix(flag, "--mount=") && strings.Contains(flag, `"`) {
			return mistake("the quotes in "+flag+" can be read in two ways", "write it without quotes")
		}
		if strings.ContainsFunc(flag, func(r rune) bool { return r >= utf8.RuneSelf || r == '\n' }) {
			return mistake("its flags have characters beyond ASCII", "write flags without them")
		}
	}
	return nil
}

var (
	modifier = regexp.MustCompile(`\$\{[A-Za-z0-9_]*[^A-Za-z0-9_}]`)
	// harmless are uses of << that are no here-document in any version: here-strings, and shifts by a number.
	harmless = regexp.MustCompile(`<<<|<<=?\s*\d`)
)

// oddHeredoc reports a line that may begin a here-document, depending on how its words are unquoted and expanded.
func oddHeredoc(line string) bool {
	if !strings.Contains(harmless.ReplaceAllString(line, ""), "<<") {
		return false
	}
	return strings.ContainsAny(line, "\\`") || modifier.MatchString(line)
}

// splitFlags divides a line into its flags as they are written, and what follows them. A "--" that ends the flags
// belongs to the flags.
func splitFlags(line string, escape rune) (flags, rest string) {
	line = strings.TrimSpace(line)
	i := strings.IndexAny(line, "\t\v\f\r ")
	if i < 0 {
		return "", ""
	}
	args := strings.TrimSpace(line[i:])
	at := 0
	for strings.HasPrefix(args[at:], "--") {
		end := at + wordEnd(args[at:], escape)
		word := args[at:end]
		at = end + len(args[end:]) - len(strings.TrimSpace(args[end:]))
		if word == "--" {
			break
		}
	}
	return strings.TrimSpace(args[:at]), args[at:]
}

// wordEnd is where the first word ends, quotes and escapes regarded.
func wordEnd(s string, escape rune) int {
	var quote byte
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case rune(c) == escape:
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case strings.IndexByte("\t\n\v\f\r ", c) >= 0:
			return i
		}
	}
	return len(s)
}

// renderFlags writes flags so that every version reads them alike.
func renderFlags(flags []string) (string, bool) {
	var b strings.Builder
	for _, flag := range flags {
		switch {
		case !strings.ContainsAny(flag, "\\`'\" \t\v\f\r"):
			b.WriteString(flag)
		case strings.ContainsAny(flag, "\\`"):
			return "", false
		case !strings.Contains(flag, `"`):
			b.WriteString(`--"` + flag[2:] + `"`)
		case !strings.Contains(flag, `'`):
			b.WriteString(`--'` + flag[2:] + `'`)
		default:
			return "", false
		}
		b.WriteByte(' ')
	}
	return b.String(), true
}

// forbidden notes what no build may ask for.
func (f *File) forbidden(in *instruction, line int) {
	run, ok := in.cmd.(*instructions.RunCommand)
	if !ok {
		return
	}
	if instructions.GetNetwork(run) == instructions.NetworkHost {
		f.problem(line, "build-network-host", "leave --network=host out", "RUN --network=host gives the step the machine's own network")
	}
	if instructions.GetSecurity(run) == instructions.SecurityInsecure {
		f.problem(line, "build-insecure", "leave --security=insecure out", "RUN --security=insecure gives the step the machine's rights")
	}
	if len(instructions.GetDevices(run)) > 0 {
		f.problem(line, "build-device", "leave --device out", "RUN --device gives the step a device of the machine")
	}
}
