package cli

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// envKey marks a flag that an environment variable can set as well.
const envKey = "slipway_env"

// bindEnv lets an environment variable set a flag that the command line does not.
func bindEnv(fs *pflag.FlagSet, flag, name string) {
	f := fs.Lookup(flag)
	f.Usage += " [$" + name + "]"
	f.Annotations = map[string][]string{envKey: {name}}
}

// setFromEnv gives the flags that are not on the command line the value of their variable. An empty variable is none.
func setFromEnv(fs *pflag.FlagSet) error {
	var err error
	fs.VisitAll(func(f *pflag.Flag) {
		if err != nil || f.Changed || len(f.Annotations[envKey]) == 0 {
			return
		}
		name := f.Annotations[envKey][0]
		value := os.Getenv(name)
		if value == "" {
			return
		}
		values := []string{value}
		if f.Value.Type() == "stringArray" {
			values = strings.Split(value, ",") // GitLab: lists in variables are separated by commas
		}
		for _, v := range values {
			if failed := fs.Set(f.Name, v); failed != nil {
				err = usagef("", "the variable %s, which stands for --%s: %s", name, f.Name, valueProblem(f, v, failed))
			}
		}
	})
	return err
}

// valueProblem says what is wrong with a flag's value.
func valueProblem(f *pflag.Flag, value string, err error) string {
	if k := kind(f); k != "" {
		return fmt.Sprintf("%q is not %s", value, k)
	}
	return errors.Unwrap(err).Error()
}

// kind says what a flag wants, "" if only the flag itself knows.
func kind(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "bool":
		return "true or false"
	case "int", "int64":
		return "a number"
	case "duration":
		return "a duration such as 90s or 5m"
	}
	return ""
}

// nearest is the word most like s, "" if none is much like it.
func nearest(s string, words []string) string {
	if len(words) == 0 {
		return ""
	}
	best := slices.MinFunc(words, func(a, b string) int { return cmp.Compare(distance(s, a), distance(s, b)) })
	if distance(s, best) > min(3, len(s)/2) {
		return ""
	}
	return best
}

// distance is the number of letters to insert, remove or change to get from a to b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// oneOf refuses a value that is not among the choices.
func oneOf(flag, value string, choices []string) error {
	if slices.Contains(choices, value) {
		return nil
	}
	hint := fmt.Sprintf("choose one of %s", strings.Join(choices, ", "))
	if near := nearest(value, choices); near != "" {
		hint = fmt.Sprintf("did you mean %s?", near)
	}
	return usagef(hint, "--%s: %q is not known", flag, value)
}
