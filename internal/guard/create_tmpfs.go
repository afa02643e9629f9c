package guard

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/mount"
)

// tmpfsFlags are options without a value that change nothing beyond the container.
var tmpfsFlags = []string{
	"rw", "ro", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "sync", "async", "dirsync", "atime", "noatime",
	"diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime", "rprivate", "private",
}

// tmpfs decides about the options of a file system in memory. It always gets a size: without one it may fill half of the
// machine's memory.
func (p *planner) tmpfs(options []string) ([]string, error) {
	size := p.policy.Limits.Tmpfs
	var out []string
	for _, o := range options {
		key, value, hasValue := strings.Cut(o, "=")
		switch {
		case o == "" || key == "nr_blocks": // blocks are another word for size
		case !hasValue && slices.Contains(tmpfsFlags, o):
			out = append(out, o)
		case hasValue && slices.Contains([]string{"mode", "uid", "gid"}, key) && isNumber(value):
			out = append(out, o)
		case key == "nr_inodes" && isNumber(strings.TrimRight(value, "kKmM")):
			out = append(out, o)
		case key == "size":
			n, err := parseSize(value)
			if err != nil {
				return nil, err
			}
			if n > 0 && n < size {
				size = n
			} else {
				p.warn("the size of a tmpfs became %d bytes, the job's limit", size)
			}
		default:
			if err := p.refuse(deny("tmpfs-option", "leave it out", "the tmpfs option %q is not one of those that stay within the container", printable(o))); err != nil {
				return nil, err
			}
			out = append(out, o)
		}
	}
	return append(out, "size="+strconv.FormatInt(size, 10)), nil
}

// tmpfsByTarget decides about those of the short spelling.
func (p *planner) tmpfsByTarget(in map[string]string) (map[string]string, error) {
	var out map[string]string
	for _, target := range slices.Sorted(maps.Keys(in)) {
		if err := checkTarget(target); err != nil {
			return nil, err
		}
		options, err := p.tmpfs(strings.Split(in[target], ","))
		if err != nil {
			return nil, err
		}
		if out == nil {
			out = map[string]string{}
		}
		out[target] = strings.Join(options, ",")
	}
	return out, nil
}

// parseTmpfsMount decides the same about the long spelling.
func (p *planner) parseTmpfsMount(m plannedMount, in *mount.TmpfsOptions) (plannedMount, error) {
	if in == nil {
		in = &mount.TmpfsOptions{}
	}
	var options []string
	for _, o := range in.Options {
		options = append(options, strings.Join(o, "="))
	}
	if in.SizeBytes > 0 {
		options = append(options, fmt.Sprintf("size=%d", in.SizeBytes))
	}
	decided, err := p.tmpfs(options)
	if err != nil {
		return m, err
	}
	out := &mount.TmpfsOptions{Mode: in.Mode}
	for _, o := range decided {
		key, value, hasValue := strings.Cut(o, "=")
		switch {
		case key == "size":
			out.SizeBytes, _ = strconv.ParseInt(value, 10, 64) // written by tmpfs
		case hasValue:
			out.Options = append(out.Options, []string{key, value})
		default:
			out.Options = append(out.Options, []string{key})
		}
	}
	m.options.TmpfsOptions = out
	return m, nil
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 32)
	return err == nil
}

// parseSize reads a size as the kernel does; 0 stands for a share of the memory.
func parseSize(s string) (int64, error) {
	if strings.HasSuffix(s, "%") {
		return 0, nil
	}
	digits := strings.TrimRight(strings.ToLower(s), "kmgb")
	n, err := strconv.ParseInt(digits, 10, 64)
	shift := map[string]int{"": 0, "b": 0, "k": 10, "kb": 10, "m": 20, "mb": 20, "g": 30, "gb": 30}
	by, known := shift[strings.ToLower(s)[len(digits):]]
	switch {
	case err != nil || !known || n < 0:
		return 0, badRequest("invalid tmpfs option: size=%s", printable(s))
	case n > 1<<62>>by:
		return 1 << 62, nil
	}
	return n << by, nil
}
