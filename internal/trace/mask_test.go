package trace

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

// maskAll runs text through a chain in pieces and returns what comes out before and after the release.
func maskAll(o Options, pieces ...string) (before, after string) {
	var out bytes.Buffer
	m := newSecrets(o).mask(func(p []byte) { out.Write(p) })
	for _, p := range pieces {
		m.write([]byte(p))
	}
	before = out.String()
	m.release()
	return before, out.String()
}

func TestMask(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		o        Options
		in, want string
	}{
		{"nothing to hide", Options{}, "hello\n", "hello\n"},
		{"value", Options{Masked: []string{"secret"}}, "a secret b", "a [MASKED] b"},
		{"longest", Options{Masked: []string{"sec", "secret"}}, "sec secret sect", "[MASKED] [MASKED] [MASKED]t"},
		{"nested", Options{Masked: []string{"bcd", "abcde"}}, "abcde abcdx", "[MASKED] a[MASKED]x"},
		{"overlap", Options{Masked: []string{"abcd", "cdef"}}, "abcdef", "[MASKED]"},
		{"self-overlap", Options{Masked: []string{"aba"}}, "ababa", "[MASKED]"},
		{"neighbours", Options{Masked: []string{"abc"}}, "abcabc", "[MASKED][MASKED]"},
		{"many in one", Options{Masked: []string{"ab", "ab-ab-ab!"}}, "ab-ab-ab? ab-ab-ab!", "[MASKED]-[MASKED]-[MASKED]? [MASKED]"},
		{"false start", Options{Masked: []string{"aab"}}, "aaab", "a[MASKED]"},
		{"lines", Options{Masked: []string{"one\ntwo"}}, "one\ntwo one two", "[MASKED] one two"},
		{"empty value", Options{Masked: []string{""}}, "abc", "abc"},
		{"not UTF-8", Options{Masked: []string{"\xff\x00\xfe"}}, "\xff\xff\x00\xfe", "\xff[MASKED]"},

		{"parameter", Options{}, "http://x/?private_token=abc&a=1", "http://x/?private_token=[MASKED]&a=1"},
		{"second", Options{}, "?a=1&rss_token=abc def", "?a=1&rss_token=[MASKED] def"},
		{"both", Options{}, "?rss_token=abc&authenticity_token=def'", "?rss_token=[MASKED]&authenticity_token=[MASKED]'"},
		{
			"case",
			Options{},
			"?X-Amz-Credential=A%2Fb&X-AMZ-SIGNATURE=1\"&x-amz-Security-Token=2\n",
			"?X-Amz-Credential=[MASKED]&X-AMZ-SIGNATURE=[MASKED]\"&x-amz-Security-Token=[MASKED]\n",
		},
		{"no parameter", Options{}, "private_token=abc ?my_private_token=abc ?private_tokens=abc", "private_token=abc ?my_private_token=abc ?private_tokens=abc"},
		{"empty parameter", Options{}, "?private_token=&a", "?private_token=&a"},
		{"mark twice", Options{}, "?private_to?private_token=a", "?private_to?private_token=[MASKED]"},
		{"value in a parameter", Options{Masked: []string{"abc"}}, "?private_token=xabcx&", "?private_token=[MASKED]&"},

		{"token", Options{}, "a glpat-aB3_.=-! b", "a glpat-[MASKED]! b"},
		{"token in a word", Options{}, "xglpat-abc", "xglpat-[MASKED]"},
		{"prefix alone", Options{}, "glpat- glpa-x", "glpat- glpa-x"},
		{"token ends the line", Options{}, "glpat-a\nb", "glpat-[MASKED]\nb"},
		{"other tokens", Options{}, "glrt-abc", "glrt-abc"},
		{"all tokens", Options{MaskDefaultTokens: true}, "glrt-abc _gitlab_session=abc;", "glrt-[MASKED] _gitlab_session=[MASKED];"},
		{"own prefix", Options{MaskPrefixes: []string{"my-"}}, "my-abc", "my-[MASKED]"},
		{
			"fifteen prefixes",
			Options{MaskPrefixes: strings.Split("a: b: c: d: e: f: g: h: i: j: k: l: m: n: o: p:", " ")},
			"o:1 p:1", "o:[MASKED] p:1",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, got := maskAll(tt.o, tt.in)
			diff(t, "whole", tt.want, got)
			_, got = maskAll(tt.o, strings.Split(tt.in, "")...)
			if strings.ToValidUTF8(tt.in, "") == tt.in {
				diff(t, "by character", tt.want, got)
			}
		})
	}
}

// A prompt must be seen although no line ends: only what may be a secret's beginning is held back.
func TestMaskHoldsBackLittle(t *testing.T) {
	t.Parallel()
	o := Options{Masked: []string{"password1", "words"}}
	for in, want := range map[string]string{
		"Continue? [y/N] ":     "Continue? [y/N] ",
		"Your pass":            "Your ",
		"Your password":        "Your ",
		"Your password:":       "Your password:",
		"Your passwords":       "Your pass[MASKED]",
		"?private_token=a":     "?private_token=[MASKED]",
		"glpat-":               "glpat-",
		"password1 password1p": "[MASKED] [MASKED]",
	} {
		got, after := maskAll(o, in)
		diff(t, in, want, got)
		if !strings.HasPrefix(after, got) {
			t.Errorf("%q became %q", got, after)
		}
	}
}

func TestAddMaskedWhileHolding(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(word, 2, 6).Draw(t, "values")
		text := text(t, values)
		early := rapid.IntRange(0, len(values)-1).Draw(t, "early")
		at := rapid.IntRange(0, len(text)).Draw(t, "at")

		var out bytes.Buffer
		m := &valueMask{values: newMatcher(values[:early], false), next: func(p []byte) { out.Write(p) }}
		for _, p := range cut(t, text[:at]) {
			m.write([]byte(p))
		}
		seen := out.Len()
		m.use(newMatcher(values, false))
		m.write([]byte(text[at:]))
		m.release()
		// What came out before the change is as before; a value that begins after it is hidden.
		for _, v := range values {
			if strings.Contains(out.String()[seen:], v) && !strings.Contains(masked, v) {
				t.Errorf("%q is in %q (%q | %q)", v, out.String()[seen:], text[:at], text[at:])
			}
		}
		for _, v := range values[:early] {
			if strings.Contains(out.String(), v) {
				t.Errorf("%q is in %q", v, out.String())
			}
		}
	})
}

// word and text use few letters, so that values overlap, nest and repeat.
var word = rapid.StringOfN(rapid.RuneFrom([]rune("abc")), 1, 8, -1)

func text(t *rapid.T, values []string) string {
	return strings.Join(rapid.SliceOfN(rapid.OneOf(
		word, rapid.SampledFrom(values), rapid.SampledFrom([]string{
			" ", "\n", "=", "?", "&", "?private_token=", "&X-Amz-Signature=", "glpat-", "glpat", "my-", "é",
		})), 0, 12).Draw(t, "text"), "")
}

func cut(t *rapid.T, text string) []string {
	cuts := rapid.SliceOfN(rapid.IntRange(0, len(text)), 0, 6).Draw(t, "cuts")
	slices.Sort(cuts)
	var pieces []string
	last := 0
	for _, c := range append(cuts, len(text)) {
		pieces = append(pieces, text[last:c])
		last = c
	}
	return pieces
}

func TestMaskAnyChunking(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		o := Options{Masked: rapid.SliceOfN(word, 1, 5).Draw(t, "values"), MaskPrefixes: []string{"my-"}}
		text := text(t, o.Masked)
		_, whole := maskAll(o, text)
		_, pieces := maskAll(o, cut(t, text)...)
		if whole != pieces {
			t.Errorf("%q: whole %q, in pieces %q", text, whole, pieces)
		}
		for _, v := range o.Masked {
			// The marks are shown on purpose.
			if shown := strings.NewReplacer(masked, "|", "private_token", "|", "glpat", "|").Replace(pieces); strings.Contains(shown, v) &&
				!strings.Contains("?private_token=glpat-&X-Amz-Signature=", v) {
				t.Errorf("%q is in %q", v, pieces)
			}
		}
	})
}

// The values alone, against the definition: all bytes of all occurrences, overlapping ones as one.
func TestValueMaskIsTheDefinition(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(word, 0, 5).Draw(t, "values")
		text := rapid.StringOfN(rapid.RuneFrom([]rune("abc")), 0, 60, -1).Draw(t, "text")
		var out bytes.Buffer
		m := &valueMask{values: newMatcher(values, false), next: func(p []byte) { out.Write(p) }}
		for _, p := range cut(t, text) {
			m.write([]byte(p))
		}
		m.release()
		if want := define(text, values); out.String() != want {
			t.Errorf("%q without %q: %q, want %q", text, values, out.String(), want)
		}
	})
}

func define(text string, values []string) string {
	var spans []span
	for i := range text {
		for _, v := range values {
			if strings.HasPrefix(text[i:], v) {
				spans = append(spans, span{start: i, end: i + len(v)})
			}
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(b.end, a.end)) })
	var out strings.Builder
	at, end := 0, 0
	for _, s := range spans {
		if s.start >= end {
			out.WriteString(text[at:s.start] + masked)
		}
		end = max(end, s.end)
		at = end
	}
	return out.String() + text[at:]
}

func BenchmarkMask(b *testing.B) {
	var jwt strings.Builder
	for i := range 1500 {
		jwt.WriteByte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"[i*i*7%64])
	}
	o := Options{MaskDefaultTokens: true, Masked: []string{
		"eyJhbGciOiJSUzI1NiJ9." + jwt.String(), "eyJhbGciOiJSUzI1NiJ9.x" + jwt.String(), "hunter2hunter2",
		"s3cr3t-pa55w0rd", "tr0ub4dor&3", "correct horse battery staple", strings.Repeat("ab", 500) + "c",
	}}
	line := "2026/11/23 10:00:00 [INFO] compile src/main/java/com/example/app/Controller.java (cached) ok 0.012s ?x=1\n"
	for name, text := range map[string]string{
		"log":     strings.Repeat(line, 300),
		"binary":  strings.Repeat("\x00\x01\xff\x7f\x80abcdefgh", 2500),
		"hostile": strings.Repeat("ab", 16<<10),
	} {
		b.Run(name, func(b *testing.B) {
			m := newSecrets(o).mask(func([]byte) {})
			p := []byte(text)
			began := cpu(b)
			for b.Loop() {
				m.write(p)
			}
			b.ReportMetric(float64(b.N)*float64(len(p))/1e6/(cpu(b)-began), "MB/cpu-s")
		})
	}
}

// cpu is the processor time of the process in seconds: other processes do not count.
func cpu(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
