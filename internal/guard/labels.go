package guard

import "strings"

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
