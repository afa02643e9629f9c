package source

import (
	"fmt"
	"io"
	"testing"
)

// BenchmarkSources is what a job waits for: a repository of 300 files, a server on this machine.
func BenchmarkSources(b *testing.B) {
	files := map[string]string{}
	for i := range 300 {
		files[fmt.Sprintf("dir%d/file%d", i%20, i)] = fmt.Sprintf("content %d\n", i)
	}
	srv := newGitServer(b)
	shas := []string{srv.commit(b, "refs/heads/main", "", files)}
	commit := func() string {
		files["dir0/file0"] = fmt.Sprintf("changed %d\n", len(shas))
		shas = append(shas, srv.commit(b, "refs/heads/main", shas[len(shas)-1], files))
		return shas[len(shas)-1]
	}
	lay := func(b *testing.B, store *Store, sha string) {
		b.Helper()
		w := open(b, store, srv.request(sha, 1))
		if err := w.Checkout(b.Context(), io.Discard); err != nil {
			b.Fatal(err)
		}
		w.Close()
	}
	run := func(name string, prepare func(*testing.B) (*Store, string)) {
		b.Run(name, func(b *testing.B) {
			processes := int64(0)
			for b.Loop() {
				b.StopTimer()
				store, sha := prepare(b)
				gitIn(b, srv.Repo, "update-ref", "refs/pipelines/1", sha)
				before := store.git.started.Load()
				b.StartTimer()
				lay(b, store, sha)
				processes += store.git.started.Load() - before
			}
			b.ReportMetric(float64(processes)/float64(b.N), "git/op")
			b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/op")
			b.ReportMetric(0, "ns/op")
		})
	}
	run("first", func(b *testing.B) (*Store, string) { return newStore(b), shas[0] })
	warm := newStore(b)
	run("new", func(b *testing.B) (*Store, string) { return warm, commit() })
	run("same", func(*testing.B) (*Store, string) { return warm, shas[len(shas)-1] })
}
