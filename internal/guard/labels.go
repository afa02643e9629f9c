package guard

import (
	"slices"
	"strings"
)

// ownLabel reports whether a label is Slipway's to set.
func ownLabel(key string) bool { return strings.HasPrefix(strings.ToLower(key), "slipway.") }

// hideLabels takes our labels out of every map of labels in a document of the Engine's.
func hideLabels(doc any) any {
	switch v := doc.(type) {
	case []any:
		for _, e := range v {
			hideLabels(e)
		}
	case map[string]any:
		for k, e := range v {
			if labels, ok := e.(map[string]any); ok && k == "Labels" {
				dropOwn(labels)
				continue
			}
			hideLabels(e)
		}
	}
	return doc
}

// dropOwn takes our labels out of one map of labels.
func dropOwn(labels map[string]any) {
	for k := range labels {
		if ownLabel(k) {
			delete(labels, k)
		}
	}
}

// ownLabels reports whether a filter names a label of ours, which no object has as the job sees it.
func ownLabels(want []string) bool {
	return slices.ContainsFunc(want, func(w string) bool {
		key, _, _ := strings.Cut(w, "=")
		return ownLabel(key)
	})
}

// visibleLabels takes our labels out of an object's view and returns the others.
func (g *Guard) visibleLabels(view map[string]any) map[string]any {
	labels, _ := view["Labels"].(map[string]any)
	for k := range labels {
		if _, ours := g.policy.Labels[k]; ours || ownLabel(k) {
			delete(labels, k)
		}
	}
	return labels
}
