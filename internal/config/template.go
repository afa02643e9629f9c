package config

import (
	"errors"
	"io/fs"

	"github.com/BurntSushi/toml"
)

// LoadTemplate reads a file with one [[runners]], of which anything may be missing: what register adds to. Of what it holds only
// the types are checked. The runner's Docker is never nil.
//
// GitLab: its register --template-config.
func LoadTemplate(path string) (*Runner, error) {
	src, err := read(path)
	if err != nil {
		var e *Error
		if errors.As(err, &e) && errors.Is(err, fs.ErrNotExist) {
			e.Hint = "--template-config names a file with one [[runners]]"
		}
		return nil, err
	}
	_, p, err := readTypes(path, src)
	if err == nil {
		err = p.err()
	}
	if err != nil {
		return nil, err
	}
	var f struct {
		Runners []*Runner `toml:"runners"`
	}
	if _, err := toml.Decode(string(src), &f); err != nil {
		return nil, syntaxError(path, src, err)
	}
	if len(f.Runners) != 1 {
		return nil, &Error{Position: Position{File: path}, Msg: "is no template", Hint: "a template has one [[runners]]"}
	}
	if f.Runners[0].Docker == nil {
		f.Runners[0].Docker = &Docker{}
	}
	return f.Runners[0], nil
}
