package cli

import "testing"

func TestOlderVersion(t *testing.T) {
	t.Parallel()
	for version, older := range map[string]bool{"20.10.24+dfsg1": true, "25.0.5": true, "25.0.6": false, "25.0.6-1": false, "26.0": false, "29.6.0-dev": false, "nonsense": true} {
		if olderVersion(version, fixedEngine) != older {
			t.Errorf("%s: %t", version, !older)
		}
	}
}
