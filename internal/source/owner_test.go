package source

import (
	"errors"
	"io"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/job"
)

// TestHide: while the project's folder is hidden its user has an empty one in its place, whatever he does to it. Then all is as before,
// also after a process that was killed meanwhile.
func TestHide(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	const nobody = 65534
	srv, store := newGitServer(t), newStore(t)
	r := srv.pipeline(t, 1, srv.commit(t, "refs/heads/main", "", map[string]string{"a": "a"}))
	r.Root, r.Rel, r.Owner, r.Umask = tempDir(t), "0/group/demo", &Owner{nobody, nobody}, 0o022
	want := map[string]string{".": "drwxr-xr-x ", "a": "-rw-r--r-- a"}
	as := func(w *Workspace, when string) {
		t.Helper()
		if diff := cmp.Diff(want, tree(t, w.Dir)); diff != "" {
			t.Errorf("%s: %s", when, diff)
		}
		if exists(t, w.Dir+awaySuffix) {
			t.Errorf("%s: the folder is still hidden", when)
		}
	}
	for name, meanwhile := range map[string]func(w *Workspace) error{
		"used":    func(w *Workspace) error { return os.WriteFile(w.Dir+"/a", []byte("another"), 0o666) },
		"removed": func(w *Workspace) error { return os.Remove(w.Dir) },
		"a link":  func(w *Workspace) error { return errors.Join(os.Remove(w.Dir), os.Symlink("/etc", w.Dir)) },
	} {
		for _, end := range []string{"show", "close", "crash"} {
			w := open(t, store, r)
			if err := errors.Join(w.Hide(), w.Hide()); err != nil {
				t.Fatal(err)
			}
			st, err := os.Stat(w.Dir)
			if err != nil || st.Mode().Perm() != 0o755 || len(tree(t, w.Dir)) != 1 {
				t.Errorf("in its place is %v %v (%v)", st, tree(t, w.Dir), err)
			}
			if err := errors.Join(meanwhile(w), w.Checkout(t.Context(), io.Discard)); err != nil {
				t.Fatal(err)
			}
			switch end {
			case "show":
				if err := w.Show(t.Context()); err != nil {
					t.Fatal(err)
				}
				as(w, name+", shown")
			case "crash":
				w.hidden = ""
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				w = open(t, store, r)
				as(w, name+", after a crash")
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			as(w, name+", closed")
		}
	}
	// Who owns a folder above it could lead root elsewhere.
	if err := os.Chown(r.Root+"/0/group", nobody, nobody); err != nil {
		t.Fatal(err)
	}
	var failed *job.Error
	if err := open(t, store, r).Hide(); !errors.As(err, &failed) || failed.Reason != job.ConfigurationError {
		t.Errorf("got %v", err)
	}
}
