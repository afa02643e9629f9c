package gitlab

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestSystemID(t *testing.T) {
	t.Parallel()
	// HMAC-SHA256("0123456789abcdef0123456789abcdef", "gitlab-runner"), by another program.
	const machine, derived = "0123456789abcdef0123456789abcdef", "s_ee3af03959fe"
	tests := []struct {
		name    string
		file    string // before; "-" = missing
		machine string
		want    string // regular expression
	}{
		{"new", "-", machine + "\n", "^" + derived + "$"},
		{"kept", "s_abcdef012345", machine, "^s_abcdef012345$"},
		{"kept, random, with newline", "r_AbCdEf012345\n", machine, "^r_AbCdEf012345$"},
		{"empty file", "", machine, "^" + derived + "$"},
		{"too short", "s_abc", machine, "^" + derived + "$"},
		{"too long", "s_abcdef0123456", machine, "^" + derived + "$"},
		{"two lines", "s_abcdef012345\ns_abcdef012345", machine, "^" + derived + "$"},
		{"nonsense", "x_abcdef012345", machine, "^" + derived + "$"},
		{"no machine ID", "-", "-", "^r_[0-9a-zA-Z]{12}$"},
		{"empty machine ID", "-", " \n", "^r_[0-9a-zA-Z]{12}$"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file, machineFile := filepath.Join(dir, "system_id"), filepath.Join(t.TempDir(), "machine-id")
			write(t, file, tt.file)
			write(t, machineFile, tt.machine)
			id, err := SystemID(file, machineFile)
			if err != nil {
				t.Fatal(err)
			}
			if !regexp.MustCompile(tt.want).MatchString(id) {
				t.Errorf("ID %q, want %s", id, tt.want)
			}
			again, err := SystemID(file, filepath.Join(dir, "missing"))
			if err != nil || again != id {
				t.Errorf("the second call gave %q, %v; the first %q", again, err, id)
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != 1 {
				t.Errorf("the folder holds %v, %v", entries, err)
			}
			st, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			if st.Mode() != 0o600 && !strings.HasPrefix(tt.name, "kept") {
				t.Errorf("mode %v", st.Mode())
			}
		})
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if content == "-" {
		return
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestSystemIDErrors: an ID that cannot be kept or read would be a new manager at each start.
func TestSystemIDErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if id, err := SystemID(filepath.Join(dir, "missing", "id"), "/nowhere"); err == nil || !strings.Contains(err.Error(), "write the system ID") {
		t.Errorf("got %q, %v", id, err)
	}
	if id, err := SystemID(dir, "/nowhere"); err == nil || !strings.Contains(err.Error(), "read the system ID") {
		t.Errorf("got %q, %v", id, err)
	}
}

func TestRandomIDsDiffer(t *testing.T) {
	t.Parallel()
	if a, b := newSystemID("/nowhere"), newSystemID("/nowhere"); a == b {
		t.Errorf("%s twice", a)
	}
}
