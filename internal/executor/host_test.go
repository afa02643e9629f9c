package executor

import (
	"os"
	"slices"
	"testing"
)

// TestNumbersAreUsedAgain: the processes of another session that has the number of a job's dead shell are not the job's.
func TestNumbersAreUsedAgain(t *testing.T) {
	t.Parallel()
	sid := sessionOf(os.Getpid()) // whose leader stands for the other process
	leader, err := os.FindProcess(sid)
	if err != nil || bornAt(sid) == "" || sid == os.Getpid() {
		t.Skip("this session has no other leader")
	}
	h := &hostPlace{mark: "a mark that nothing has", process: leader, born: bornAt(sid)}
	if !slices.Contains(h.processes(true), sid) {
		t.Error("a shell that lives is not among the job's processes")
	}
	h.born = "1"
	if found := h.processes(true); len(found) > 0 {
		t.Errorf("found %v", found)
	}
}
