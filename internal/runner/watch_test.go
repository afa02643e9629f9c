package runner

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestWatch(t *testing.T) {
	t.Parallel()
	write := func(t *testing.T, path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stamp := func(t *testing.T, path string, at int64) {
		if err := os.Chtimes(path, time.Time{}, time.Unix(at, 0)); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name string
		edit func(t *testing.T, path string)
		want int
	}{
		{"nothing happens", func(*testing.T, string) {}, 0},
		{"read", func(t *testing.T, path string) {
			if _, err := os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
		}, 0},
		{"other size, same time", func(t *testing.T, path string) {
			write(t, path, "concurrent = 10")
			stamp(t, path, 1000)
		}, 1},
		{"other time, same size", func(t *testing.T, path string) { stamp(t, path, 2000) }, 1},
		{"older time", func(t *testing.T, path string) { stamp(t, path, 500) }, 1},
		{"replaced by a file of the same size and time", func(t *testing.T, path string) {
			write(t, path+".new", "concurrent = 2")
			stamp(t, path+".new", 1000)
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		}, 1},
		{"removed", func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}, 0},
		{"removed and made anew", func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			<-time.After(10 * WatchInterval)
			write(t, path, "concurrent = 3")
		}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "config.toml")
				write(t, path, "concurrent = 1")
				stamp(t, path, 1000)
				ctx, stop := context.WithCancel(t.Context())
				got, done := 0, make(chan struct{})
				go func() {
					defer close(done)
					Watch(ctx, seen(path), WatchInterval, func() { got++ })
				}()
				<-time.After(WatchInterval / 2)
				tt.edit(t, path)
				<-time.After(10 * WatchInterval)
				stop()
				<-done
				if got != tt.want {
					t.Errorf("called back %d times, want %d", got, tt.want)
				}
			})
		})
	}
}

func TestWatchAFileThatComesLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "config.toml")
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		called := make(chan time.Time, 1)
		start := time.Now()
		go Watch(ctx, seen(path), WatchInterval, func() { called <- time.Now() })
		<-time.After(10 * time.Second)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if after := (<-called).Sub(start); after != 12*time.Second {
			t.Errorf("called back after %s, want 12 s", after)
		}
	})
}

// TestWatchWhatWasReadMeanwhile: who was told of a change by somebody else, and has read the file, hears nothing of it.
func TestWatchWhatWasReadMeanwhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "config.toml")
		file := seen(path)
		ctx, stop := context.WithCancel(t.Context())
		got, done := 0, make(chan struct{})
		go func() {
			defer close(done)
			Watch(ctx, file, WatchInterval, func() { got++ })
		}()
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if !file.Look() {
			t.Error("the change is not seen")
		}
		<-time.After(10 * WatchInterval)
		stop()
		<-done
		if got != 0 {
			t.Errorf("called back %d times", got)
		}
	})
}

func seen(path string) *File {
	f := &File{Path: path}
	f.Look()
	return f
}
