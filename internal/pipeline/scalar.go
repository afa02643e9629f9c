package pipeline

import (
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
)

// The forms of plain scalars that are not strings.
//
// GitLab: YAML 1.1 as Ruby's Psych reads it, with commas and base 60.
var (
	scalarInfinity = regexp.MustCompile(`(?i)^([-+]?)\.inf$`)
	scalarNaN      = regexp.MustCompile(`(?i)^\.nan$`)
	scalarTime     = regexp.MustCompile(`^-?\d{4}-\d{1,2}-\d{1,2}(?:[Tt]|\s+)\d{1,2}:\d\d:\d\d(?:\.\d*)?(?:\s*(?:Z|[-+]\d{1,2}:?(?:\d\d)?))?$`)
	scalarDate     = regexp.MustCompile(`^\d{4}-(?:1[012]|0\d|\d)-(?:[12]\d|3[01]|0\d|\d)$`)
	scalarSixty    = regexp.MustCompile(`^[-+]?[0-9][0-9_]*(?::[0-5]?[0-9]){1,2}(\.[0-9_]*)?$`)
	scalarFloat    = regexp.MustCompile(`^[-+]?(?:[0-9][0-9_,]*)?\.[0-9]*(?:[eE][-+][0-9]+)?$`)
	scalarInteger  = regexp.MustCompile(`^[-+]?(?:0b[01_,]+|0[0-7_,]+|0|[1-9](?:[0-9]|[,_][0-9])*|0x[0-9a-fA-F_,]+)$`)
)

// resolveScalar gives the kind of an unquoted scalar and its text as Ruby prints the value: yes is "true", 010 is "8",
// 20.10 is "20.1". ok is false for a date or time, which GitLab refuses to load.
func resolveScalar(s string) (k kind, text string, ok bool) {
	switch strings.ToLower(s[:min(6, len(s))]) {
	case "", "~", "null":
		return kindNull, "", true
	case "yes", "true", "on":
		return kindBool, "true", true
	case "no", "false", "off":
		return kindBool, "false", true
	}
	if !strings.ContainsRune("0123456789+-.:", rune(s[0])) {
		return kindString, s, true
	}
	switch {
	case scalarTime.MatchString(s), scalarDate.MatchString(s):
		return kindString, s, false
	case scalarInfinity.MatchString(s):
		if s[0] == '-' {
			return kindNumber, "-Infinity", true
		}
		return kindNumber, "Infinity", true
	case scalarNaN.MatchString(s):
		return kindNumber, "NaN", true
	case len(s) > 1 && s[0] == ':':
		return kindSymbol, strings.Trim(s[1:], `"'`), true
	case scalarSixty.MatchString(s):
		return kindNumber, sixtyText(s), true
	}
	digits := strings.ReplaceAll(strings.ReplaceAll(s, "_", ""), ",", "")
	switch {
	case scalarFloat.MatchString(s):
		if f, err := strconv.ParseFloat(digits, 64); err == nil || math.IsInf(f, 0) {
			return kindNumber, floatText(f), true
		}
	case scalarInteger.MatchString(s):
		if strings.TrimLeft(digits, "+-")[0] != '0' {
			return kindNumber, strings.TrimPrefix(digits, "+"), true
		}
		if i, ok := new(big.Int).SetString(digits, 0); ok {
			return kindNumber, i.String(), true
		}
	}
	return kindString, s, true
}

// sixtyText prints a number in base 60.
//
// GitLab: whatever the number of parts, the first counts 3600, the second 60.
func sixtyText(s string) string {
	sum := 0.0
	for i, part := range strings.Split(strings.ReplaceAll(s, "_", ""), ":") {
		f, _ := strconv.ParseFloat(part, 64)
		sum += f * math.Pow(60, math.Abs(float64(i-2)))
	}
	if strings.Contains(s, ".") {
		return floatText(sum)
	}
	return strconv.FormatFloat(sum, 'f', 0, 64)
}

// floatText prints a float as Ruby does: always with a fraction, with an exponent below 1e-4 and from 1e16.
func floatText(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(f, 'e', -1, 64), "e")
		if !strings.Contains(mantissa, ".") {
			mantissa += ".0"
		}
		return mantissa + "e" + exponent
	}
	text := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return text
}
