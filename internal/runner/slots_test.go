package runner

import (
	"testing"

	"pgregory.net/rapid"
)

func TestPlaces(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var ps places
		var taken []*place
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				project := rapid.Int64Range(1, 3).Draw(t, "project")
				ids, inProject := map[int]bool{}, map[int]bool{}
				for _, p := range taken {
					if p.left {
						continue
					}
					ids[p.id] = true
					if p.project == project {
						inProject[p.projectID] = true
					}
				}
				p := ps.take(project)
				check(t, p.id, ids)
				check(t, p.projectID, inProject)
				taken = append(taken, p)
			},
			"leave": func(t *rapid.T) {
				if len(taken) == 0 {
					t.Skip("none")
				}
				taken[rapid.IntRange(0, len(taken)-1).Draw(t, "which")].left = true
			},
			"release": func(t *rapid.T) {
				if len(taken) == 0 {
					t.Skip("none")
				}
				i := rapid.IntRange(0, len(taken)-1).Draw(t, "which")
				ps.release(taken[i])
				taken = append(taken[:i], taken[i+1:]...)
				if len(ps) != len(taken) {
					t.Fatalf("%d places are taken, want %d", len(ps), len(taken))
				}
			},
		})
	})
}

// check: n is not taken, and all below are.
func check(t *rapid.T, n int, taken map[int]bool) {
	if taken[n] {
		t.Fatalf("%d was given twice", n)
	}
	for i := range n {
		if !taken[i] {
			t.Fatalf("got %d while %d was free", n, i)
		}
	}
}
