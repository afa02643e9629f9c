package config

import (
	"strconv"
	"strings"
)

// scan finds the keys of a text that is TOML. On any other text it may find nonsense, but it ends.
func scan(src string) *layout {
	s := scanner{layout: &layout{src: src, keys: map[string]span{}}, tables: map[string]int{}}
	for i := range len(src) {
		if src[i] == '\n' {
			s.newlines = append(s.newlines, i)
		}
	}
	s.pos = len(byteOrderMark(src))
	s.top = s.pos
	for s.space(true); s.pos < len(src); s.space(true) {
		if src[s.pos] == '[' {
			s.header()
		} else {
			s.pair(s.table)
			if n := len(s.sections); n > 0 {
				s.sections[n-1].end = s.lineEnd(s.pos)
			} else {
				s.top = s.lineEnd(s.pos)
			}
		}
	}
	return s.layout
}

// byteOrderMark gives what stands before the text and is not part of it; the same marks as the TOML library skips.
func byteOrderMark(src string) string {
	for _, m := range []string{"\xef\xbb\xbf", "\xff\xfe", "\xfe\xff"} {
		if strings.HasPrefix(src, m) {
			return m
		}
	}
	return ""
}

type scanner struct {
	*layout
	pos    int
	table  string         // path of the section
	tables map[string]int // how many elements each array of tables has so far, by path
}

func (s *scanner) rest() string { return s.src[s.pos:] }

// at reports whether the text goes on with prefix, and steps over it if so.
func (s *scanner) at(prefix string) bool {
	if !strings.HasPrefix(s.rest(), prefix) {
		return false
	}
	s.pos += len(prefix)
	return true
}

// until steps to the next of chars.
func (s *scanner) until(chars string) {
	if i := strings.IndexAny(s.rest(), chars); i >= 0 {
		s.pos += i
	} else {
		s.pos = len(s.src)
	}
}

// space skips blanks, and with lines set newlines and comments too.
func (s *scanner) space(lines bool) {
	for s.pos < len(s.src) {
		switch c := s.src[s.pos]; {
		case c == ' ', c == '\t', lines && (c == '\n' || c == '\r'):
			s.pos++
		case lines && c == '#':
			s.until("\n")
		default:
			return
		}
	}
}

func (s *scanner) header() {
	start := s.pos
	array := s.at("[[")
	if !array {
		s.pos++
	}
	path := ""
	names := s.names()
	for i, name := range names {
		path = child(path, name)
		last := i == len(names)-1
		if last && !array {
			delete(s.keys, path) // a sub-table may have implied it; its own header is the better place
		}
		s.found(path, span{start, start, s.pos})
		if last && array {
			s.tables[path]++
		}
		if n := s.tables[path]; n > 0 {
			path = element(path, n-1)
			s.found(path, span{start, start, s.pos})
		}
	}
	s.table = path
	s.until("]\n")
	for s.at("]") {
	}
	s.sections = append(s.sections, section{path: path, head: s.lineStart(start), end: s.lineEnd(s.pos)})
}

// found notes a path where it is first seen.
func (s *scanner) found(path string, at span) {
	if _, seen := s.keys[path]; !seen {
		s.keys[path] = at
	}
}

// pair reads key = value below the table.
func (s *scanner) pair(table string) {
	start := s.pos
	path := table
	names := s.names()
	for i, name := range names {
		path = child(path, name)
		if i == len(names)-1 {
			break
		}
		s.found(path, span{start, start, s.pos})
		if n := s.tables[path]; n > 0 { // against TOML's rules, but the library takes it
			path = element(path, n-1)
		}
	}
	if !s.at("=") {
		s.pos = max(s.pos, min(start+1, len(s.src)))
		return
	}
	s.space(false)
	at := span{key: start, value: s.pos}
	s.value(path)
	at.end = s.pos
	s.keys[path] = at
}

// names reads a key with its dots.
func (s *scanner) names() []string {
	var names []string
	for {
		s.space(false)
		start := s.pos
		switch {
		case s.at(`"`):
			s.quoted(`"`)
			names = append(names, unquote(s.src[start:s.pos]))
		case s.at("'"):
			s.quoted("'")
			names = append(names, strings.Trim(s.src[start:s.pos], "'"))
		default:
			s.until(" \t\r\n.=[]{}#,\"'")
			names = append(names, s.src[start:s.pos])
		}
		s.space(false)
		if !s.at(".") {
			return names
		}
	}
}

// unquote: TOML's escapes are Go's but for \e and \xHH of newer drafts, for which the key keeps its quotes.
func unquote(s string) string {
	if u, err := strconv.Unquote(s); err == nil {
		return u
	}
	return s
}

// quoted steps over a string whose opening quote has been read.
func (s *scanner) quoted(quote string) {
	escapes := quote[0] == '"'
	for s.pos < len(s.src) {
		switch {
		case escapes && s.at(`\`):
			s.pos = min(s.pos+1, len(s.src))
		case s.at(quote):
			// A long string may end in one or two quotes of its own.
			for i := 0; len(quote) == 3 && i < 2 && s.at(quote[:1]); i++ {
			}
			return
		default:
			s.pos++
		}
	}
}

func (s *scanner) value(path string) {
	switch {
	case s.at(`"""`):
		s.quoted(`"""`)
	case s.at("'''"):
		s.quoted("'''")
	case s.at(`"`):
		s.quoted(`"`)
	case s.at("'"):
		s.quoted("'")
	case s.at("["):
		s.list(path)
	case s.at("{"):
		s.inline(path)
	default:
		start := s.pos
		s.until(",]}#\r\n")
		s.pos = start + len(strings.TrimRight(s.src[start:s.pos], " \t"))
	}
}

func (s *scanner) list(path string) {
	for i := 0; s.pos < len(s.src); i++ {
		s.space(true)
		if s.at("]") {
			return
		}
		at := span{key: s.pos, value: s.pos}
		s.value(element(path, i))
		at.end = s.pos
		s.keys[element(path, i)] = at
		s.space(true)
		if !s.at(",") && at.end == at.key && s.pos < len(s.src) && s.src[s.pos] != ']' {
			s.pos++ // no TOML
		}
	}
}

func (s *scanner) inline(path string) {
	for s.pos < len(s.src) {
		s.space(true)
		if s.at("}") {
			return
		}
		s.pair(path)
		s.space(true)
		s.at(",")
	}
}
