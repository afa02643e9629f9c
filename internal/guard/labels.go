package guard

import "strings"

// ownLabel reports whether a label is Slipway's to set.
func ownLabel(key string) bool { return strings.HasPrefix(strings.ToLower(key), "slipway.") }
