package wire

import (
	"net/url"
	"slices"
)

// repeated are the query keys that may have several values.
var repeated = []string{"t", "extrahosts", "names", "platform", "changes"}

// Query refuses what the Engine's versions read in different ways, and keys with several values.
func Query(raw string) (url.Values, error) {
	q, err := url.ParseQuery(raw)
	if err != nil {
		return nil, Bad("slipway: the query cannot be decoded")
	}
	for k, v := range q {
		if len(v) > 1 && !slices.Contains(repeated, k) {
			return nil, Bad("slipway: the query has %q more than once", Printable(k))
		}
	}
	return q, nil
}
