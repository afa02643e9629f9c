package ledger

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func open(t testing.TB, dir string) *Ledger {
	t.Helper()
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func ownName(t testing.TB, scope, app string) string {
	t.Helper()
	return OwnName(scope, named(t, app))
}

func visible(t testing.TB, l *Ledger, name, scope string) bool {
	t.Helper()
	m, err := l.Meaning(name, scope)
	if err != nil {
		t.Fatal(err)
	}
	return m.Visible
}

func TestUnknownNamesAreTheOperators(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir())
	if !visible(t, l, "docker.io/library/alpine:3", "s1") {
		t.Error("an image of the operator's is hidden")
	}
	if visible(t, l, ownName(t, "s1", "app"), "s1") {
		t.Error("below slipway.local, nothing is the operator's")
	}
}

func TestOwnNamesAreTheScopesAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, other := open(t, dir), open(t, dir)
	name := ownName(t, "s1", "app")
	if err := l.Own(name, "s1", "docker.io/library/app:latest", time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, who := range []*Ledger{l, other} {
		if !visible(t, who, name, "s1") || visible(t, who, name, "s2") {
			t.Error("seen by the wrong ones")
		}
	}
	if err := other.Forget(name); err != nil {
		t.Fatal(err)
	}
	if visible(t, l, name, "s1") {
		t.Error("seen after it was forgotten by another")
	}
}

// TestTwoProcesses: several processes write and compact at once, and nothing is lost.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	const processes, each, rounds = 3, 10, 60
	if n := os.Getenv("SLIPWAY_TEST_LEDGER"); n != "" {
		l := open(t, os.Getenv("SLIPWAY_TEST_DIR"))
		for round := range rounds {
			for i := range each {
				name := ownName(t, "s"+n, fmt.Sprintf("app%d", i))
				if err := l.Borrow(name, "s"+n, time.Unix(int64(round), 0)); err != nil {
					t.Fatal(err)
				}
			}
		}
		return
	}
	dir := t.TempDir()
	reader := open(t, dir)
	var all sync.WaitGroup
	for n := range processes {
		all.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestTwoProcesses$")
			cmd.Env = append(os.Environ(), "SLIPWAY_TEST_LEDGER="+strconv.Itoa(n), "SLIPWAY_TEST_DIR="+dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	for {
		if _, err := reader.Entries(); err != nil { // reads while others write
			t.Fatal(err)
		}
		select {
		case <-done:
		default:
			continue
		}
		break
	}
	for _, l := range []*Ledger{reader, open(t, dir)} {
		entries, err := l.Entries()
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != processes*each {
			t.Errorf("%d entries", len(entries))
		}
		for _, e := range entries {
			if e.Used.Unix() != rounds-1 {
				t.Errorf("%s is of round %d", e.Name, e.Used.Unix())
			}
		}
	}
	if lines := count(t, filepath.Join(dir, fileName)); lines > 2*processes*each+spareLines {
		t.Errorf("%d lines: it was not compacted", lines)
	}
}

func count(t *testing.T, file string) (n int) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		n++
	}
	return n
}

// TestTornLine: a line that a killed process began does not count, and the next one is not glued to it.
func TestTornLine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir)
	first, second := ownName(t, "s1", "first"), ownName(t, "s1", "second")
	if err := l.Own(first, "s1", "first", time.Now()); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, fileName), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, `{"name":"slipway.local/s1/docker.io/library/torn:latest","sco`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if !visible(t, l, first, "s1") { // a reader does not mind
		t.Error("the first is lost")
	}
	if err := l.Own(second, "s1", "second", time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, l := range []*Ledger{l, open(t, dir)} {
		entries, err := l.Entries()
		if err != nil || len(entries) != 2 {
			t.Errorf("%v %v", entries, err)
		}
	}
}

// TestDamage: a record that cannot be read whole is not believed at all, because what it misses would be the operator's.
func TestDamage(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"x\n", "{}\n", `{"name":"a"` + "\n" + `{"name":"b"}` + "\n"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := Open(dir); err == nil || !strings.Contains(err.Error(), "is damaged at line 1") {
			t.Errorf("%q: %v %v", text, l, err)
		}
	}
	dir := t.TempDir()
	l := open(t, dir)
	if err := os.Remove(filepath.Join(dir, fileName)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Meaning("docker.io/library/alpine:3", "s1"); err == nil {
		t.Error("a record that vanished looks like an empty one")
	}
}

// shelf is an Engine that only remembers names.
type shelf map[string]string

func (s shelf) Image(_ context.Context, ref string) (Image, error) {
	if id, ok := s[ref]; ok {
		return Image{ID: id}, nil
	}
	for _, id := range s {
		if id == ref {
			return Image{ID: id}, nil
		}
	}
	return Image{}, nil
}
func (s shelf) Tag(_ context.Context, id, name string) error { s[name] = id; return nil }
func (s shelf) Untag(_ context.Context, name string) error   { delete(s, name); return nil }

func TestExpire(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir())
	now := time.Now()
	old, fresh, lent := ownName(t, "s1", "old"), ownName(t, "s1", "fresh"), TemporaryName("s1", "job1", "x")
	gone := "registry.example.com/team/gone:1"
	engine := shelf{old: "sha256:1", fresh: "sha256:2", lent: "sha256:3", "docker.io/library/alpine:3": "sha256:4"}
	for name, age := range map[string]time.Duration{old: 8 * 24 * time.Hour, fresh: 6 * 24 * time.Hour} {
		if err := l.Own(name, "s1", name, now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Borrow(lent, "s1", now.Add(-30*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	pull := func(ctx context.Context) error { return engine.Tag(ctx, "sha256:5", gone) }
	if _, _, err := l.Pull(t.Context(), engine, Pull{Name: gone, Scope: "s1", Private: true}, pull); err != nil {
		t.Fatal(err)
	}
	delete(engine, gone)
	// Used today: it lives on.
	if err := l.Use(fresh, now); err != nil {
		t.Fatal(err)
	}
	removed, err := l.Expire(t.Context(), engine, now, UnusedFor)
	if err != nil || len(removed) != 1 || removed[0] != old {
		t.Errorf("%v %v", removed, err)
	}
	if engine[old] != "" || engine[fresh] == "" || engine[lent] == "" || engine["docker.io/library/alpine:3"] == "" {
		t.Errorf("the Engine has %v", engine)
	}
	if removed, err := l.Expire(t.Context(), engine, now.Add(UnusedFor-time.Hour), UnusedFor); err != nil || len(removed) != 0 {
		t.Errorf("%v %v", removed, err)
	}
	if removed, err := l.Expire(t.Context(), engine, now.Add(UnusedFor+time.Hour), UnusedFor); err != nil || len(removed) != 1 {
		t.Errorf("%v %v", removed, err)
	}
	if err := l.Repair(t.Context(), engine); err != nil {
		t.Fatal(err)
	}
	if entries, err := l.Entries(); err != nil || len(entries) != 0 || engine[lent] != "" {
		t.Errorf("left in the record: %v %v", entries, err)
	}
}

// TestEvict: the longest unused first, only until there is enough, and nothing that a job used lately.
func TestEvict(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir())
	now := time.Now()
	engine := shelf{}
	const day = 24 * time.Hour
	for written, age := range map[string]time.Duration{"older": 3 * day, "oldest": 4 * day, "old": 2 * day, "fresh": day / 2} {
		engine[ownName(t, "s1", written)] = "sha256:" + written
		if err := l.Own(ownName(t, "s1", written), "s1", written, now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	borrowed := TemporaryName("s1", "job1", "x")
	engine[borrowed] = "sha256:5"
	if err := l.Borrow(borrowed, "s1", now.Add(-5*day)); err != nil {
		t.Fatal(err)
	}
	evict := func(n int) []string {
		t.Helper()
		gone, err := l.Evict(t.Context(), engine, now, day, func() bool { n--; return n >= 0 })
		if err != nil {
			t.Error(err)
		}
		return gone
	}
	for _, want := range [][]string{nil, {"oldest", "older"}, {"old"}, nil} {
		if gone := evict(len(want)); !slices.Equal(gone, want) {
			t.Errorf("%v are gone, not %v", gone, want)
		}
	}
	if gone := evict(10); gone != nil || len(engine) != 2 || engine[borrowed] == "" {
		t.Errorf("%v are gone, the Engine has %v", gone, engine)
	}
}

// TestEvictUsedToday: a name that was used again, or given anew, some time after that was noted last is not unused for a day.
func TestEvictUsedToday(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir())
	begin, engine := time.Now(), shelf{}
	const day = 24 * time.Hour
	used, built, left := ownName(t, "s1", "used"), ownName(t, "s1", "built"), ownName(t, "s1", "left")
	for _, name := range []string{used, built, left} {
		engine[name] = "sha256:" + name
		if err := l.Own(name, "s1", name, begin); err != nil {
			t.Fatal(err)
		}
	}
	last := begin.Add(day - time.Minute)
	if err := errors.Join(l.Use(used, last), l.Own(built, "s1", built, last)); err != nil {
		t.Fatal(err)
	}
	evict := func(at time.Time, want ...string) {
		t.Helper()
		gone, err := l.Evict(t.Context(), engine, at, day, func() bool { return true })
		slices.Sort(gone)
		if err != nil || !slices.Equal(gone, want) {
			t.Errorf("%v are gone, %v, not %v", gone, err, want)
		}
	}
	evict(begin.Add(day+time.Minute), left)
	evict(last.Add(day - time.Minute))
	evict(last.Add(day+time.Minute), built, used)
}

// stuckShelf is an Engine that does not remove some names.
type stuckShelf struct {
	shelf
	stuck map[string]error
	asked int
}

func (s *stuckShelf) Untag(ctx context.Context, name string) error {
	s.asked++
	if err := s.stuck[name]; err != nil {
		return err
	}
	return s.shelf.Untag(ctx, name)
}

// TestEvictGoesOn: a name that cannot be removed keeps no other one, but an Engine that does not answer is asked once.
func TestEvictGoesOn(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, c := range []struct {
		err   error
		want  []string
		asked int
	}{
		{errors.New("conflict"), []string{"b", "d"}, 4},
		{fmt.Errorf("%w: connection refused", ErrNoAnswer), nil, 1},
		{context.DeadlineExceeded, nil, 1},
	} {
		l := open(t, t.TempDir())
		engine := &stuckShelf{shelf: shelf{}, stuck: map[string]error{ownName(t, "s1", "a"): c.err, ownName(t, "s1", "c"): c.err}}
		for i, written := range []string{"a", "b", "c", "d"} {
			name := ownName(t, "s1", written)
			engine.shelf[name] = "sha256:" + written
			if err := l.Own(name, "s1", written, now.Add(time.Duration(i-100)*time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		gone, err := l.Evict(t.Context(), engine, now, time.Hour, func() bool { return true })
		if !errors.Is(err, c.err) || !slices.Equal(gone, c.want) || engine.asked != c.asked {
			t.Errorf("%v: %v are gone, %v; asked %d times", c.err, gone, err, engine.asked)
		}
	}
}

// TestLease: what a job borrowed is taken back when the job is gone, and not before.
func TestLease(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, other := open(t, dir), open(t, dir)
	name := TemporaryName("s1", "job1", "x")
	lease, err := l.Live("job1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Live("job1"); err == nil {
		t.Error("a job lives twice")
	}
	engine := shelf{name: "sha256:1"}
	if err := l.Borrow(name, "s1", time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := other.Repair(t.Context(), engine); err != nil || engine[name] == "" {
		t.Errorf("taken from a job that lives: %v", err)
	}
	lease.file.Close() // as the kernel does
	if err := other.Repair(t.Context(), engine); err != nil || engine[name] != "" {
		t.Errorf("not taken back: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "locks")); err != nil || len(left) != 0 {
		t.Errorf("%v %v", left, err)
	}
}

// TestShared: a name that jobs have in common goes with the last of them, however it ends.
func TestShared(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, other := open(t, dir), open(t, dir)
	name := TemporaryName("s1", "id", "x")
	engine := shelf{name: "sha256:1"}
	share := func(l *Ledger) *Shared {
		t.Helper()
		use, err := l.Share(t.Context(), name, "s1", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return use
	}
	first, second := share(l), share(other)
	if err := first.Release(t.Context(), engine); err != nil || engine[name] == "" {
		t.Errorf("taken from the other job: %v", err)
	}
	if err := l.Repair(t.Context(), engine); err != nil || engine[name] == "" {
		t.Errorf("taken back from a job that lives: %v", err)
	}
	second.file.Close() // as the kernel does
	if err := l.Repair(t.Context(), engine); err != nil || engine[name] != "" {
		t.Errorf("not taken back: %v", err)
	}
}

// TestExpireByAnotherClock: a clock that is set back or forth by a day takes no name away, and a use that was noted in the future is
// noted anew.
func TestExpireByAnotherClock(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	l, now := open(t, t.TempDir()), time.Now()
	used, ahead := ownName(t, "s1", "used"), ownName(t, "s1", "ahead")
	engine := shelf{used: "sha256:1", ahead: "sha256:2"}
	if err := errors.Join(l.Own(used, "s1", "used", now), l.Own(ahead, "s1", "ahead", now.Add(400*day))); err != nil {
		t.Fatal(err)
	}
	for _, jump := range []time.Duration{-day, day, -400 * day} {
		if removed, err := l.Expire(t.Context(), engine, now.Add(jump), UnusedFor); err != nil || len(removed) != 0 {
			t.Errorf("%s: removed %v, %v", jump, removed, err)
		}
	}
	if err := l.Use(ahead, now); err != nil {
		t.Fatal(err)
	}
	removed, err := l.Expire(t.Context(), engine, now.Add(UnusedFor+time.Hour), UnusedFor)
	slices.Sort(removed)
	if err != nil || !slices.Equal(removed, []string{"ahead", "used"}) {
		t.Errorf("removed %v, %v", removed, err)
	}
}
