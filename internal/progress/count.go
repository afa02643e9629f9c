package progress

import (
	"sync"

	control "github.com/moby/buildkit/api/services/control"
)

// Counter counts the instructions that a build has done, or need not do, each once. FROM is none: it is neither.
type Counter struct {
	mu   sync.Mutex
	seen map[string]bool // digests
}

// Take reads what BuildKit tells, and calls count for each instruction that has ended. Several goroutines may call it.
func (s *Counter) Take(status *control.StatusResponse, count func(cached bool)) {
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
