package config

import "testing"

func TestListenAddress(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "", ":9252": ":9252", "localhost": "localhost:9252", "127.0.0.1:80": "127.0.0.1:80", "localhost:": "localhost:9252",
		"::1": "[::1]:9252", "[::1]": "[::1]:9252", "[::1]:80": "[::1]:80", ":0": ":0",
	} {
		if got, err := ListenAddress(in); got != want || err != nil {
			t.Errorf("%q: got %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"http://localhost:9252", "localhost:http", "localhost:70000", "local host", "a/b"} {
		if got, err := ListenAddress(in); err == nil {
			t.Errorf("%q: got %q, want an error", in, got)
		}
	}
}
