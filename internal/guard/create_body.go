package guard

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

// createRequest is what clients of all versions send to make a container: the newest types, and the fields that only
// older clients know.
type createRequest struct {
	*container.Config
	Cmd, Entrypoint  words // in place of the types' own
	MacAddress       string
	HostConfig       *hostConfig
	NetworkingConfig *network.NetworkingConfig

	unknown string // a field that nobody knows here; it is not forwarded
}

type hostConfig struct {
	container.HostConfig
	KernelMemory    int64
	KernelMemoryTCP int64
}

// words are a command: a list, or the string that the Engine takes for a list of one.
type words []string

// UnmarshalJSON takes both.
func (w *words) UnmarshalJSON(data []byte) error {
	var one string
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte(`"`)) {
		err := json.Unmarshal(data, &one)
		*w = words{one}
		return err
	}
	return json.Unmarshal(data, (*[]string)(w))
}

// plainRequest is a createRequest for the decoder.
type plainRequest createRequest

// UnmarshalJSON notes a field that is not known, where the decoder would drop it in silence.
func (r *createRequest) UnmarshalJSON(data []byte) error {
	strict := json.NewDecoder(bytes.NewReader(data))
	strict.DisallowUnknownFields()
	var p plainRequest
	err := strict.Decode(&p)
	if err != nil {
		if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			p = plainRequest{unknown: printable(strings.Trim(name, `"`))}
			err = json.Unmarshal(data, &p)
		}
	}
	*r = createRequest(p)
	if r.Config == nil { // all that was sent is in the other fields
		r.Config = &container.Config{}
	}
	if r.HostConfig == nil {
		r.HostConfig = &hostConfig{}
	}
	if r.NetworkingConfig == nil {
		r.NetworkingConfig = &network.NetworkingConfig{}
	}
	return err
}
