package guard

import (
	"encoding/json"
	"testing"
)

// TestHiddenImageDetails: the containerd store tells of others where the Engines of the tests do not.
func TestHiddenImageDetails(t *testing.T) {
	t.Parallel()
	var doc map[string]any
	if err := json.Unmarshal([]byte(`{"Identity": {"Pull": [{"Repository": "secret"}]}, "Descriptor": {"annotations": {"name": "secret"}},
		"Manifests": [{"Descriptor": {"digest": "d", "annotations": {"name": "secret"}}, "ImageData": {"Containers": ["secret"]}}]}`), &doc); err != nil {
		t.Fatal(err)
	}
	hideImageDetails(doc)
	data, err := json.Marshal(doc)
	if want := `{"Descriptor":{},"Manifests":[{"Descriptor":{"digest":"d"},"ImageData":{"Containers":[]}}]}`; err != nil || string(data) != want {
		t.Errorf("%s, %v", data, err)
	}
}
