package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCanSetCredentials: the trial leaves the file as it is, and finds what keeps a token from being written.
func TestCanSetCredentials(t *testing.T) {
	t.Parallel()
	const text = "# mine\n[[runners]]\nname = \"a\"\nurl = \"https://gitlab.example.com\"\ntoken = \"glrt-old\"\nexecutor = \"docker\"\n"
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
	r := &Runner{Name: "a", URL: "https://gitlab.example.com", Token: "glrt-old"}
	if err := CanSetCredentials(path, r); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != text {
		t.Errorf("the file is %q, %v", got, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) > 2 { // the file, and the lock of its folder if that is a file
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := CanSetCredentials(path, &Runner{URL: r.URL, Token: "glrt-other"}); !errors.Is(err, ErrNoRunner) {
		t.Errorf("another token: %v", err)
	}
	t.Run("variable", func(t *testing.T) {
		variable := strings.Replace(text, "glrt-old", "$SLIPWAY_TEST_TOKEN", 1)
		if err := os.WriteFile(path, []byte(variable), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := CanSetCredentials(path, &Runner{URL: r.URL}); err == nil {
			t.Error("a token of the environment can be kept")
		}
	})
	if err := CanSetCredentials(filepath.Join(t.TempDir(), "no", "config.toml"), r); err == nil {
		t.Error("a file that is not there can be changed")
	}
}
