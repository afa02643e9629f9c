package buildlog

import (
	"bytes"
	"regexp"
	"slices"
)

// maxLine is how many bytes of a line are looked at. Longer lines are a program's output, never the builder's.
const maxLine = 8 << 10

// escapes are the terminal's control sequences: colours, erase line, cursor moves.
var escapes = regexp.MustCompile(`\x1b\[[0-9;?]*[ -/]*[@-~]`)

// Parser is a writer that takes a log, in pieces of any size, and collects the builds in it. Colours and carriage
// returns do not disturb it; timestamps must have been taken off before. Its zero value is ready. It is not safe for
// concurrent use.
type Parser struct {
	line     []byte // of the current line, at most maxLine bytes
	builds   []*Build
	classic  classicBuild
	buildKit buildKitBuild
}

// Write takes a piece of the log. It never fails.
func (p *Parser) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		end := bytes.IndexAny(b, "\r\n")
		if end < 0 {
			p.hold(b)
			break
		}
		p.hold(b[:end])
		p.take(string(escapes.ReplaceAll(p.line, nil)))
		p.line = p.line[:0]
		b = b[end+1:]
	}
	return n, nil
}

func (p *Parser) hold(b []byte) {
	p.line = append(p.line, b[:min(len(b), maxLine-len(p.line))]...)
}

// take reads one whole line.
func (p *Parser) take(line string) {
	if line == "" {
		return
	}
	if !p.buildKit.take(line, p.begin) {
		p.classic.take(line, p.begin)
	}
}

func (p *Parser) begin() *Build {
	b := &Build{}
	p.builds = append(p.builds, b)
	return b
}

// Builds are the builds read so far that have a step. The slice is a copy.
func (p *Parser) Builds() []Build {
	var out []Build
	for _, b := range p.builds {
		if len(b.Steps) > 0 {
			out = append(out, Build{Steps: slices.Clone(b.Steps)})
		}
	}
	return out
}
