package guard

import (
	"sync"

	control "github.com/moby/buildkit/api/services/control"
)

// stepCount counts the instructions that a build has done, or need not do, each once. FROM is none: it is neither.
type stepCount struct {
	mu   sync.Mutex
	seen map[string]bool // digests
}

// take reads what BuildKit tells.
func (s *stepCount) take(status *control.StatusResponse, count func(cached bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range status.Vertexes {
		m := vertexName.FindStringSubmatch(v.Name)
		if m == nil || m[3] == "FROM" || v.Completed == nil || v.Error != "" || s.seen[v.Digest] {
			continue
		}
		if s.seen == nil {
			s.seen = map[string]bool{}
		}
		s.seen[v.Digest] = true
		count(v.Cached)
	}
}
