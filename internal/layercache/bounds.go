package layercache

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode/utf8"
)

// The bounds of what is remembered of a build. What is in it comes from a job, and jobs of many builds have it in memory at once.
const (
	maxFiles = 20_000
	maxNames = 1 << 20 // bytes of all paths and links

	maxText    = 1 << 10   // bytes of one instruction: a longer one is known by its beginning and a digest
	maxTexts   = 256 << 10 // bytes of all instructions, names and numbers
	maxSources = 200       // of one instruction
	maxPaths   = 8 << 10   // bytes of its sources
	maxGlobs   = 512       // bytes of those that are patterns: each is tried with each file
	maxArgs    = 16 << 10  // bytes of the names of build arguments, and of what stands for their values
)

// bound cuts a build to what may be remembered. It reports whether what is left is of any use. shown is applied to what is cut,
// while it is whole.
func (b *Build) bound(shown func(string) string) bool {
	size := 0
	for i := range b.Stages {
		stage := &b.Stages[i]
		size += len(stage.Name) + len(stage.Image) + len(stage.ID)
		if !stage.Needed {
			stage.Steps = nil
		}
		for j := range stage.Steps {
			s := &stage.Steps[j]
			if s.Text = brief(s.Text, shown); tooMany(s.Sources) {
				s.Sources, s.Unsure = nil, true
			}
			size += len(s.Text) + len(strings.Join(s.Images, "")) + 8*len(s.Stages)
		}
	}
	args := 0
	for name, value := range b.Args {
		args += len(name) + len(value)
	}
	if args > maxArgs {
		b.Args = nil
	}
	return size <= maxTexts
}

// brief is a text that is no longer than it may be, and still another one than all others.
func brief(text string, shown func(string) string) string {
	if len(text) <= maxText {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return short(shown(text)) + " " + hex.EncodeToString(sum[:8])
}

// tooMany reports whether it would take too long to look which files some sources take.
func tooMany(sources []string) bool {
	paths, globs := 0, 0
	for _, s := range sources {
		paths += len(s)
		if isGlob(s) {
			globs += len(s)
		}
	}
	return len(sources) > maxSources || paths > maxPaths || globs > maxGlobs
}

// validName is a file's name as a record can have it.
func validName(name string) string {
	if utf8.ValidString(name) {
		return name
	}
	return strings.ToValidUTF8(name, "?")
}
