package source

import (
	"strings"
	"testing"
)

func TestLFSIsTold(t *testing.T) {
	t.Parallel()
	srv, store := newGitServer(t), newStore(t)
	const warning = "has files in Git LFS"
	plain := srv.commit(t, "refs/heads/main", "", map[string]string{"a": "filter=lfs", ".gitattributes": "*.txt text\n"})
	if _, log := checkout(t, store, srv.pipeline(t, 1, plain)); strings.Contains(log, warning) {
		t.Errorf("log: %q", log)
	}
	r := srv.pipeline(t, 2, srv.commit(t, "refs/heads/main", plain, map[string]string{"art/.gitattributes": "*.psd filter=lfs diff=lfs merge=lfs -text\n"}))
	if _, log := checkout(t, store, r); !strings.Contains(log, "WARNING: art/.gitattributes "+warning) {
		t.Errorf("log: %q", log)
	}
	r.SkipLFS = true
	if _, log := checkout(t, store, r); strings.Contains(log, warning) {
		t.Errorf("log: %q", log)
	}
}
