package ledger

import (
	"context"
	"errors"
	"regexp"
	"strings"

	"github.com/distribution/reference"
)

// Found is an image that a scope may use.
type Found struct {
	ID string // "" = there is none
	// Stored is the Engine's name that led there, "" if it was named by ID.
	Stored string
	// Private says that the scope has it because credentials were sent for it: that another job of the scope had them does
	// not mean that this one does.
	Private bool
}

// ErrBusy says that a name is changed faster than it can be read.
var ErrBusy = errors.New("the image's name is being changed; try again")

// tries bounds how often a question is asked anew because the answer may have changed while it was asked.
const tries = 20

var idForm = regexp.MustCompile(`^(sha256:)?[0-9a-f]{12,64}$`)

// Find finds the image that a name or an ID means for a scope's jobs.
func (l *Ledger) Find(ctx context.Context, engine Engine, s Scope, ref string) (Found, error) {
	if named, err := reference.ParseNormalizedNamed(ref); err == nil {
		for _, c := range s.Candidates(named) {
			f, err := l.FindName(ctx, engine, s, c)
			if err != nil || f.ID != "" {
				return f, err
			}
		}
	}
	if idForm.MatchString(ref) {
		return l.findID(ctx, engine, s, ref)
	}
	return Found{}, nil
}

// FindName finds the image that one candidate means, if it means any. The last image that the Engine is asked for is the one.
func (l *Ledger) FindName(ctx context.Context, engine Engine, s Scope, c Candidate) (Found, error) {
	for range tries {
		m, err := l.Meaning(c.Stored, s.ID)
		if err != nil || !m.Visible {
			return Found{}, err
		}
		ask := c.Stored
		if m.ID != "" {
			ask = m.ID
		}
		img, err := engine.Image(ctx, ask)
		if err != nil {
			return Found{}, err
		}
		if img.ID != "" && !m.Known && strings.Contains(c.Stored, "@") && !isOwn(c.Stored) {
			if ok, err := l.DigestVisible(c.Stored, s.ID, img); err != nil || !ok {
				return Found{}, err
			}
		}
		after, err := l.Meaning(c.Stored, s.ID)
		if err != nil {
			return Found{}, err
		}
		if after.Version == m.Version {
			return Found{ID: img.ID, Stored: c.Stored, Private: m.Private && !s.holds(c.Stored)}, nil
		}
	}
	return Found{}, ErrBusy
}

// DigestVisible decides on a name with a digest that is not in the record: it is as visible as the image's tags in that
// repository. Without any it is the operator's.
func (l *Ledger) DigestVisible(name, scope string, img Image) (bool, error) {
	repo, alone := repository(name), true
	for _, t := range img.RepoTags {
		tag := canonical(t)
		if tag == "" || repository(tag) != repo {
			continue
		}
		alone = false
		m, err := l.Meaning(tag, scope)
		if err != nil {
			return false, err
		}
		if m.Visible && (m.ID == "" || m.ID == img.ID) {
			return true, nil
		}
	}
	return alone, nil
}

// findID takes an image that some name leads to which the scope reads without credentials, or that it made.
func (l *Ledger) findID(ctx context.Context, engine Engine, s Scope, ref string) (Found, error) {
	for range tries {
		before, err := l.Version()
		if err != nil {
			return Found{}, err
		}
		img, err := engine.Image(ctx, ref)
		if err != nil || img.ID == "" {
			return Found{}, err
		}
		visible := false
		for _, t := range img.RepoTags {
			name := canonical(t)
			if name == "" {
				continue
			}
			m, err := l.Meaning(name, s.ID)
			if err != nil {
				return Found{}, err
			}
			visible = visible || m.Visible && !m.Private && (m.ID == "" || m.ID == img.ID)
		}
		names, err := l.Names(s.ID)
		if err != nil {
			return Found{}, err
		}
		for name, id := range names.Private {
			visible = visible || id == img.ID && s.holds(name)
		}
		after, err := l.Version()
		if err != nil {
			return Found{}, err
		}
		switch {
		case before != after:
			continue
		case !visible:
			return Found{}, nil
		}
		return Found{ID: img.ID}, nil
	}
	return Found{}, ErrBusy
}
