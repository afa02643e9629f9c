package layercache

import "strings"

// Layer is what the Engine tells of an instruction in the history of an image.
type Layer struct {
	CreatedBy string // "RUN /bin/sh -c make # buildkit"
	Size      int64  // bytes
}

// Measure takes in how large the layers of a build's steps are, from the history of the image that was made, the latest
// first. Where it does not fit the instructions, the sizes of those before stay unknown.
func (b *Build) Measure(history []Layer) {
	target := len(b.Stages) - 1 // no stage after it is needed
	for target >= 0 && !b.Stages[target].Needed {
		target--
	}
	if target < 0 {
		return
	}
	steps := b.chain(target)
	for _, layer := range history {
		for len(steps) > 0 && keyword(steps[len(steps)-1].Text) == "ONBUILD" { // has no entry
			steps = steps[:len(steps)-1]
		}
		if len(steps) == 0 || keyword(layer.CreatedBy) != keyword(steps[len(steps)-1].Text) {
			return
		}
		steps[len(steps)-1].Size = layer.Size
		steps = steps[:len(steps)-1]
	}
}

func keyword(text string) string {
	word, _, _ := strings.Cut(text, " ")
	return strings.ToUpper(word)
}
