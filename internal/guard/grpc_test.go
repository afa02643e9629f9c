package guard

import "testing"

func TestGRPCBuild(t *testing.T) {
	r := newRig(t)
	dir := folder(t, "Dockerfile", "FROM "+alpine+"\nRUN echo hello > /x\nCOPY f /f\n", "f", "content")
	out, err := r.buildxIn(dir, "", "build", "-t", "made:1", ".")
	t.Log(out, err)
	if err != nil {
		t.Fatal("failed")
	}
	t.Log(r.docker("run", "--rm", "made:1", "cat", "/x", "/f", "/etc/hosts"))
	out, err = r.buildxIn(dir, "", "build", "-t", "made:1", ".")
	t.Log(out, err)
}
