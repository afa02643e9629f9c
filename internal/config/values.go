package config

import (
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/docker/go-units"
)

// Bytes is a size that the file has as a string such as "128m"; -1 = no limit.
type Bytes int64

// UnmarshalText reads a size as docker run --memory does: b, k, m, g, t and p count in 1024s.
func (b *Bytes) UnmarshalText(text []byte) error {
	s := string(text)
	if s == "" || s == "-1" {
		*b = 0
		if s == "-1" {
			*b = -1
		}
		return nil
	}
	n, err := units.RAMInBytes(s)
	if err != nil || n < 0 {
		return fmt.Errorf("%q is not a size", s)
	}
	*b = Bytes(n)
	return nil
}

// MarshalText writes the size in the largest unit that loses nothing.
func (b Bytes) MarshalText() ([]byte, error) {
	n, unit := int64(b), ""
	for _, u := range []string{"k", "m", "g"} {
		if n == 0 || n%1024 != 0 {
			break
		}
		n, unit = n/1024, u
	}
	return []byte(strconv.FormatInt(n, 10) + unit), nil
}

// MinFree is what is to stay free of a disk, which the file has as a size, "10GB", or as a part of the disk, "5%".
type MinFree struct {
	Bytes   Bytes
	Percent float64 // of the disk; counts if Bytes is 0
}

// What stays free of a disk unless the file says otherwise: see MinFree.Of.
const (
	defaultFreePercent = 5
	defaultFree        = 10 << 30
)

// Of says what is to stay free of a disk of that size, in bytes. Nil stands for the default: the smaller of 5 % and 10 GiB.
func (m *MinFree) Of(size uint64) uint64 {
	switch {
	case m == nil:
		return min(uint64(float64(size)*defaultFreePercent/100), defaultFree)
	case m.Bytes > 0:
		return uint64(m.Bytes)
	}
	return uint64(float64(size) * m.Percent / 100)
}

// Off reports whether nothing is to stay free.
func (m *MinFree) Off() bool { return m != nil && *m == MinFree{} }

// UnmarshalText reads a size as Bytes does, or a number of percent.
func (m *MinFree) UnmarshalText(text []byte) error {
	s := string(text)
	if number, ok := strings.CutSuffix(s, "%"); ok {
		percent, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(percent >= 0 && percent < 100) {
			return fmt.Errorf("%q is no part of a disk", s)
		}
		*m = MinFree{Percent: percent}
		return nil
	}
	var b Bytes
	if err := b.UnmarshalText(text); err != nil || b < 0 || s == "" {
		return fmt.Errorf("%q is neither a size nor a part of a disk", s)
	}
	*m = MinFree{Bytes: b}
	return nil
}

// MarshalText writes it as UnmarshalText reads it.
func (m MinFree) MarshalText() ([]byte, error) {
	if m.Bytes == 0 && m.Percent > 0 {
		return []byte(strconv.FormatFloat(m.Percent, 'f', -1, 64) + "%"), nil
	}
	return m.Bytes.MarshalText()
}

// NanoCPUs is a number of CPUs in billionths, which the file has as a string such as "1.5".
type NanoCPUs int64

// UnmarshalText reads a number of CPUs as docker run --cpus does: exactly, to the ninth decimal place.
func (c *NanoCPUs) UnmarshalText(text []byte) error {
	s := string(text)
	if s == "" {
		*c = 0
		return nil
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok || r.Sign() < 0 {
		return fmt.Errorf("%q is not a number of CPUs", s)
	}
	r.Mul(r, big.NewRat(1e9, 1))
	if !r.IsInt() || !r.Num().IsInt64() {
		return fmt.Errorf("%q CPUs are too precise or too many", s)
	}
	*c = NanoCPUs(r.Num().Int64())
	return nil
}

// MarshalText writes the number with as many decimal places as it needs.
func (c NanoCPUs) MarshalText() ([]byte, error) {
	s := big.NewRat(int64(c), 1e9).FloatString(9)
	return []byte(strings.TrimSuffix(strings.TrimRight(s, "0"), ".")), nil
}

// StringList is a list that the file may also have as a single string.
type StringList []string

// UnmarshalTOML takes a string or a list of strings.
func (l *StringList) UnmarshalTOML(v any) error {
	switch v := v.(type) {
	case string:
		*l = StringList{v}
		return nil
	case []any:
		out := make(StringList, 0, len(v))
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return errors.New("not a list of strings")
			}
			out = append(out, s)
		}
		*l = out
		return nil
	}
	return errors.New("neither a string nor a list of strings")
}

// ParseUlimit reads a value of the ulimit table, "soft[:hard]"; without hard it is soft too, and -1 is no limit.
func ParseUlimit(s string) (soft, hard int64, err error) {
	before, after, two := strings.Cut(s, ":")
	soft, softErr := strconv.ParseInt(before, 10, 64)
	hard, hardErr := soft, error(nil)
	if two {
		hard, hardErr = strconv.ParseInt(after, 10, 64)
	}
	switch {
	case softErr != nil && hardErr != nil:
		return 0, 0, fmt.Errorf("soft limit %q and hard limit %q are not numbers", before, after)
	case softErr != nil:
		return 0, 0, fmt.Errorf("soft limit %q is not a number", before)
	case hardErr != nil:
		return 0, 0, fmt.Errorf("hard limit %q is not a number", after)
	}
	return soft, hard, nil
}
