package guard

import (
	"archive/tar"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/mishap"
)

// TestBuildPanic: a defect that a build's context comes upon is an error of that build, and of nothing else.
func TestBuildPanic(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *Options) {
		o.Policy.Audit, o.Policy.Limits.Builds = true, 1
		o.Report = func(line string) {
			if strings.Contains(line, "[build-context]") { // told from where the context is read
				panic("defect")
			}
		}
	})
	text := "FROM scratch\nLABEL panic=" + r.policy.Token + "\n"
	big := strings.Repeat("0123456789abcdef", (maxAhead+1<<20)/16)
	device := tar.Header{Name: "sda", Typeflag: tar.TypeBlock, Devmajor: 8}
	dockerfile := tar.Header{Name: "Dockerfile", Typeflag: tar.TypeReg, Linkname: text}
	for what, context := range map[string][]byte{
		"before the Engine is asked": entries(t, device, dockerfile),
		"after that":                 entries(t, dockerfile, tar.Header{Name: "big", Typeflag: tar.TypeReg, Linkname: big}, device),
	} {
		status, answer := r.do(http.MethodPost, "/build", context)
		if status != http.StatusInternalServerError && !strings.Contains(answer, "errorDetail") || !strings.Contains(answer, "defect of Slipway's") {
			t.Errorf("%s: %d %s", what, status, answer)
		}
		wants(t, r.audit.take(), "level=ERROR", "build_tar.go")
	}
	if status, answer := r.do(http.MethodPost, "/build", entries(t, dockerfile)); status != http.StatusOK || !strings.Contains(answer, "Successfully built") {
		t.Errorf("%d %s", status, answer)
	}
}

// TestArchivePanic: so is one that another archive comes upon.
func TestArchivePanic(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := &call{Guard: r.Guard, ctx: t.Context(), row: "a test"}
	body, end := c.streamed(func(w io.Writer) error {
		_, _ = io.WriteString(w, "text")
		panic("defect")
	})
	text, err := io.ReadAll(body)
	if string(text) != "text" || !errors.As(err, new(*mishap.Error)) {
		t.Errorf("%q %v", text, err)
	}
	if err := end(); !errors.As(err, new(*mishap.Error)) {
		t.Error(err)
	}
	wants(t, r.audit.String(), "level=ERROR", "call_relay.go")
}
