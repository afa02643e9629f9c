package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds how deep a client's JSON may nest, maxValues how many values it may have: three bytes of it become a
// hundred in memory.
const (
	maxDepth  = 64
	maxValues = 50_000
)

// dataMaps are the keys whose objects hold a client's own keys: there, keys that differ in case differ.
var dataMaps = map[string]bool{
	"labels": true, "options": true, "exposedports": true, "volumes": true, "portbindings": true, "sysctls": true, "tmpfs": true,
	"storageopt": true, "driveropts": true, "endpointsconfig": true, "config": false, "annotations": true, "buildargs": true,
	"driverconfig": false, "ipam": false,
}

// Decode decodes one JSON document into v, which must be a pointer to one of the Engine's types. The Engine's own
// decoder takes keys in any case, merges duplicate objects and (before 29) ignores what follows: all of that is an
// error here, so that what was checked is what the Engine would have understood.
func Decode(data []byte, v any) error {
	if err := Check(data); err != nil {
		return Bad("slipway: the body is not acceptable: %v", err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return Bad("slipway: the body cannot be decoded: %v", err)
	}
	return nil
}

// Check refuses what decoders may understand in different ways. Its error goes on a sentence about the document: "it nests deeper than 64".
func Check(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("it is not UTF-8")
	}
	c := jsonCheck{Decoder: json.NewDecoder(bytes.NewReader(data))}
	c.UseNumber()
	if err := c.value("", 0); err != nil {
		return err
	}
	if _, err := c.Token(); err != io.EOF {
		return errors.New("there is more after the JSON document")
	}
	return nil
}

// jsonCheck goes through a document once.
type jsonCheck struct {
	*json.Decoder
	values int // seen
}

func (c *jsonCheck) value(key string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("it nests deeper than %d", maxDepth)
	}
	if c.values++; c.values > maxValues {
		return fmt.Errorf("it has more than %d values", maxValues)
	}
	t, err := c.Token()
	if err != nil {
		return jsonError(err)
	}
	switch t {
	case json.Delim('{'):
		return c.object(key, depth)
	case json.Delim('['):
		for c.More() {
			if err := c.value("", depth+1); err != nil {
				return err
			}
		}
		_, err = c.Token()
		return jsonError(err)
	}
	return nil
}

func (c *jsonCheck) object(key string, depth int) error {
	exact := dataMaps[strings.ToLower(key)]
	known := map[string]string{}
	for c.More() {
		t, err := c.Token()
		if err != nil {
			return jsonError(err)
		}
		k := t.(string)
		fold := k
		if !exact {
			if !isASCII(k) {
				return fmt.Errorf("the key %q is not ASCII", k)
			}
			fold = strings.ToLower(k)
		}
		if before, ok := known[fold]; ok {
			return fmt.Errorf("the key %q is there twice, as %q and %q", k, before, k)
		}
		known[fold] = k
		if exact {
			k = "" // the client's own word says nothing of what is below
		}
		if err := c.value(k, depth+1); err != nil {
			return err
		}
	}
	_, err := c.Token()
	return jsonError(err)
}

func isASCII(s string) bool {
	for _, c := range []byte(s) {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func jsonError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it ends too early")
	}
	return err
}
