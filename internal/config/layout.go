package config

import (
	"slices"
	"strconv"
	"strings"
)

// layout says where in a file each key stands. The TOML library gives positions only for its own errors, and not of
// the single elements of an array of tables. scan reads keys and the extent of values, nothing else; that the text is
// TOML has been seen before.
//
// A path names one key of one table: runners[1].docker.image.
type layout struct {
	src      string
	newlines []int           // offset of each newline
	keys     map[string]span // by path
	top      int             // offset after the last key above every header
	sections []section       // the headers in the file's order
}

// span is where a key stands, in byte offsets. A header has its own extent as value.
type span struct{ key, value, end int }

// section is a header line, [table] or [[table]], with the keys below it.
type section struct {
	path string
	head int // offset of the header's line
	end  int // offset after the line on which its last key, or the header itself, ends
}

// line gives the line of the path, or of the nearest table above it that the file has; 0 = none.
func (l *layout) line(path string) int {
	for ; path != ""; path = parentOf(path) {
		if at, ok := l.keys[path]; ok {
			return l.lineAt(at.key)
		}
		for p, at := range l.keys {
			if strings.EqualFold(p, path) { // the library takes keys in any case
				return l.lineAt(at.key)
			}
		}
	}
	return 0
}

func (l *layout) lineAt(offset int) int {
	n, _ := slices.BinarySearch(l.newlines, offset)
	return n + 1
}

// lineEnd is the offset after the newline that ends the line of offset.
func (l *layout) lineEnd(offset int) int {
	if i := strings.IndexByte(l.src[offset:], '\n'); i >= 0 {
		return offset + i + 1
	}
	return len(l.src)
}

func (l *layout) lineStart(offset int) int {
	return strings.LastIndexByte(l.src[:offset], '\n') + 1
}

// child is the path of a key below path.
func child(path, key string) string {
	if strings.Trim(key, bareKey) != "" || key == "" {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

const bareKey = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

func element(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// parentOf cuts the last key or index off. Quoted keys may hold the separators: such a path falls a step too far,
// which costs a line number only.
func parentOf(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

// keyOf is a path without its indexes, as GitLab's documentation names keys: runners.docker.image.
func keyOf(path string) string {
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(path, "[")
		b.WriteString(before)
		i := strings.IndexByte(after, ']')
		if !ok || i < 0 || strings.Contains(before, `"`) {
			b.WriteString(path[len(before):])
			return b.String()
		}
		path = after[i+1:]
	}
}
