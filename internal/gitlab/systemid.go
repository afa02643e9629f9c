package gitlab

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// SystemID returns the name under which this machine appears as one of the managers of a runner: the content of file,
// or, if that has none, a new ID that is written there (0600). machineIDFile is the system's (/etc/machine-id); where
// it is missing the new ID is random.
//
// GitLab: s_ and twelve hex digits, computed as GitLab's own runner does, so that a machine that changes to this
// program stays the same manager; r_ and twelve letters or digits when random.
func SystemID(file, machineIDFile string) (string, error) {
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the system ID: %w", err)
	}
	if id := strings.TrimSpace(string(old)); isSystemID(id) {
		return id, nil
	}
	id := newSystemID(machineIDFile)
	if err := writeFile(file, id); err != nil {
		return "", fmt.Errorf("write the system ID: %w", err)
	}
	return id, nil
}

func isSystemID(s string) bool {
	return regexp.MustCompile(`^[sr]_[0-9a-zA-Z]{12}$`).MatchString(s)
}

func newSystemID(machineIDFile string) string {
	if machine, err := os.ReadFile(machineIDFile); err == nil {
		if key := strings.TrimSpace(string(machine)); key != "" {
			mac := hmac.New(sha256.New, []byte(key))
			mac.Write([]byte("gitlab-runner"))
			return "s_" + hex.EncodeToString(mac.Sum(nil))[:12]
		}
	}
	return "r_" + rand.Text()[:12]
}

// writeFile puts a whole new file into the place of path, readable for its owner only.
func writeFile(path, content string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
