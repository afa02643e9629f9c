package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// pair is the durations of jobs and of their minimum, measured by turns.
type pair struct{ ours, minimum []time.Duration }

// table collects the rows of the report.
type table struct{ rows [][]string }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) pair(name string, p pair, goal string) {
	t.row(name, spread(p.ours), spread(p.minimum), p.ratio(), goal)
}

// ratio is the median of the ratios of each turn.
func (p pair) ratio() string {
	var ratios []float64
	for i := range p.ours {
		ratios = append(ratios, float64(p.ours[i])/float64(p.minimum[i]))
	}
	slices.Sort(ratios)
	return fmt.Sprintf("%.2f×", ratios[len(ratios)/2])
}

func (t *table) single(name string, d []time.Duration, goal string) {
	t.row(name, spread(d), "", "", goal)
}

func (t *table) write(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "\tslipway\tminimum\tratio\tgoal")
	for _, r := range t.rows {
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	return tw.Flush()
}

// spread is the median and the 95th percentile.
func spread(d []time.Duration) string {
	d = slices.Sorted(slices.Values(d))
	return fmt.Sprintf("p50 %.2f s, p95 %.2f s", d[len(d)/2].Seconds(), d[(len(d)*95)/100].Seconds())
}

func median(d []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(d))[len(d)/2]
}

// millis is the median in milliseconds.
func millis(d []time.Duration) string { return fmt.Sprintf("p50 %.2f ms", median(d).Seconds()*1e3) }

func ratio(a, b time.Duration) string { return fmt.Sprintf("%.2f×", float64(a)/float64(b)) }

func perMinute(n int, d time.Duration) string {
	return fmt.Sprintf("%.0f a minute", float64(n)/d.Minutes())
}
