package source

import (
	"bytes"
	"fmt"
	"io"
	"path"
)

// maxAttributes bounds what is read of one .gitattributes, in bytes.
const maxAttributes = 1 << 20

// warnOfLFS tells that files which Git LFS keeps elsewhere stay pointers: without a word, a job would build with them.
func (w *Workspace) warnOfLFS(idx *index, out io.Writer) error {
	if w.req.SkipLFS {
		return nil
	}
	root, err := w.Root()
	if err != nil {
		return err
	}
	defer root.Close()
	for name, e := range idx.entries {
		if path.Base(name) != ".gitattributes" || e.mode&0o170000 != 0o100000 {
			continue
		}
		f, err := root.Open(name) // a plain file: the checkout has just made sure of it
		if err != nil {
			return err
		}
		text, err := io.ReadAll(io.LimitReader(f, maxAttributes))
		f.Close()
		if err != nil {
			return withPath("read", name, err)
		}
		if bytes.Contains(text, []byte("filter=lfs")) {
			fmt.Fprintf(out, "WARNING: %s has files in Git LFS, which this runner does not fetch: they are pointers. With git-lfs in the job's image, `git lfs pull` fetches them; GIT_LFS_SKIP_SMUDGE=1 ends this warning\n", name)
			return nil
		}
	}
	return nil
}
