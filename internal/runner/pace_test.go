package runner

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPace(t *testing.T) {
	t.Parallel()
	const (
		ms       = time.Millisecond
		interval = 3 * time.Second
	)
	repeat := func(n int, d time.Duration) []time.Duration {
		var s []time.Duration
		for range n {
			s = append(s, d)
		}
		return s
	}
	tests := []struct {
		name     string
		interval time.Duration
		active   time.Duration // after the last job, at the beginning; 0 = none
		took     []time.Duration
		want     []time.Duration // the wait after each
	}{
		{"no long polling", interval, 0, repeat(5, 50*ms), []time.Duration{0, 0, interval, interval, interval}},
		{"no long polling, active", interval, time.Second, repeat(5, 50*ms), []time.Duration{0, 0, time.Second, time.Second, time.Second}},
		{"a long interval, active", 30 * time.Second, time.Second, repeat(4, 50*ms), []time.Duration{0, 0, 10 * time.Second, 10 * time.Second}},
		{"a short interval, active", time.Second, time.Second, repeat(3, 50*ms), []time.Duration{0, 0, time.Second}},
		{"no longer active", interval, 59 * time.Second, repeat(4, 50*ms), []time.Duration{0, 0, time.Second, interval}},
		{"long polling", interval, 0, repeat(4, 50*time.Second), []time.Duration{0, 0, 0, 0}},
		{"long polling and a long interval", time.Minute, 0, repeat(2, 50*time.Second), []time.Duration{0, 0}},
		{"long polling, released early", interval, 0, repeat(6, 1500*ms), []time.Duration{0, 0, 0, 0, 0, 0}},
		{
			"long polling is met later", interval, 0,
			[]time.Duration{50 * ms, 50 * ms, 50 * ms, 50 * time.Second, 50 * ms, 50 * ms, 50 * ms},
			[]time.Duration{0, 0, interval, 0, 0, 0, interval},
		},
		{"long polling with many changes", interval, 0, repeat(5, 300*ms), []time.Duration{0, 0, interval, interval, interval}},
		{
			"long polling is met later, with a long interval", time.Minute, 0,
			[]time.Duration{50 * ms, 50 * ms, 50 * ms, 50 * time.Second, 50 * ms},
			[]time.Duration{0, 0, time.Minute, 0, 0},
		},
		{"a slow server", interval, 0, repeat(3, 4*time.Second), []time.Duration{0, 0, 0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			p := newPace()
			if tt.active > 0 {
				p.active = now.Add(-tt.active)
			}
			var got []time.Duration
			for _, took := range tt.took {
				now = now.Add(took)
				next := p.afterEmpty(now, took, tt.interval)
				got = append(got, next.Sub(now))
				now = next
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("waits (-want +got):\n%s", diff)
			}
		})
	}
}
