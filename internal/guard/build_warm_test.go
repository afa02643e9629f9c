package guard

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestWarmBuildOfNextJob: what one job built is cached for the next job of its scope, also where the Dockerfile itself is
// copied; another scope builds it anew. The name that the guard gave the base goes with the last of them.
func TestWarmBuildOfNextJob(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	nonce := fmt.Sprint(os.Getpid(), time.Now().UnixNano())
	for file, text := range map[string]string{"Dockerfile": "FROM " + alpine + "\nRUN echo " + nonce + " >/n\nCOPY . /app/\n", "file": nonce} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ledgerDir := t.TempDir()
	job := func(scope string) *rig {
		return newRig(t, func(o *Options) {
			o.Policy.Scope, o.Images = scope, testLedger(t, ledgerDir)
		})
	}
	scope := fmt.Sprintf("w%x", time.Now().UnixNano())
	cached := func(r *rig) int {
		t.Helper()
		return strings.Count(r.docker("build", dir), " ---> Using cache")
	}
	a, b := job(scope), job(scope)
	if n := cached(a); n != 0 {
		t.Errorf("the first build has %d cached steps", n)
	}
	if n := cached(b); n != 2 {
		t.Errorf("the next job's build has %d cached steps, want 2", n)
	}
	if n := cached(job(scope + "x")); n != 0 {
		t.Errorf("another scope's build has %d cached steps", n)
	}
	names := func() int {
		return strings.Count(a.host("image", "ls", "--format", "{{.Repository}}"), "slipway.local/"+scope+"/from/id")
	}
	for i, r := range []*rig{a, b} {
		if n := names(); n != 1 {
			t.Errorf("before the end of job %d the base has %d names", i+1, n)
		}
		if err := r.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if n := names(); n != 0 {
		t.Errorf("after the last job the base has %d names", n)
	}
}
