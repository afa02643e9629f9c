package config

import "log/slog"

// Secret is a string that must not reach a log: it prints as [MASKED].
type Secret string

const masked = "[MASKED]"

// String hides the value.
func (Secret) String() string { return masked }

// GoString hides the value.
func (Secret) GoString() string { return masked }

// LogValue hides the value.
func (Secret) LogValue() slog.Value { return slog.StringValue(masked) }

// MarshalJSON hides the value: logs may be JSON.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + masked + `"`), nil }

// Reveal returns the value.
func (s Secret) Reveal() string { return string(s) }
