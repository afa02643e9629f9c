package guard

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"io"
	"path"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// unpacked is what an archive leaves on a disk, in a simple model of how Docker unpacks: entries replace what is there,
// but for folders, and are written through symbolic links in their paths.
type unpacked struct {
	files map[string]*node
}

type node struct {
	kind byte
	data string
	link string
}

// follow resolves the links in all but the last part of a path.
func (u *unpacked) follow(name string, last bool) (string, bool) {
	at := ""
	parts := strings.Split(name, "/")
	for hops := 0; len(parts) > 0; {
		part := parts[0]
		parts = parts[1:]
		if part == "" || part == "." {
			continue
		}
		if part == ".." {
			if at = path.Dir("/" + at)[1:]; at == "." {
				at = ""
			}
			continue
		}
		next := strings.TrimPrefix(at+"/"+part, "/")
		n := u.files[next]
		if n != nil && n.kind == tar.TypeSymlink && (len(parts) > 0 || last) {
			if hops++; hops > 40 {
				return "", false
			}
			parts = append(strings.Split(n.link, "/"), parts...)
			if path.IsAbs(n.link) {
				at = ""
			}
			continue
		}
		at = next
	}
	return at, true
}

func unpack(archive []byte) (*unpacked, error) {
	u := &unpacked{files: map[string]*node{}}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return u, nil
		}
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		name, ok := u.follow(path.Clean("/" + h.Name)[1:], false)
		if !ok || name == "" {
			continue
		}
		old := u.files[name]
		if h.Typeflag == tar.TypeDir && old != nil && old.kind == tar.TypeDir {
			continue
		}
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if u.files[dir] == nil {
				u.files[dir] = &node{kind: tar.TypeDir}
			}
		}
		for k := range u.files { // what is replaced goes with all that is in it
			if k == name || strings.HasPrefix(k, name+"/") {
				delete(u.files, k)
			}
		}
		n := &node{kind: h.Typeflag, data: string(data), link: h.Linkname}
		if h.Typeflag == tar.TypeLink {
			to, ok := u.follow(path.Clean("/" + h.Linkname)[1:], false)
			if n = u.files[to]; !ok || n == nil {
				continue
			}
		}
		u.files[name] = n
	}
}

// FuzzBuildContext: whatever archive comes in, what the Engine reads as the Dockerfile is the checked copy.
func FuzzBuildContext(f *testing.F) {
	seed := func(headers ...tar.Header) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			data := ""
			if h.Typeflag == tar.TypeReg {
				data = h.Linkname
				h.Linkname, h.Size = "", int64(len(data))
			}
			_ = w.WriteHeader(&h)
			_, _ = io.WriteString(w, data)
		}
		_ = w.Close()
		f.Add(b.Bytes(), "Dockerfile")
		f.Add(b.Bytes(), "a/Dockerfile")
	}
	for _, name := range []string{"Dockerfile", "dockerfile", "./a/../Dockerfile", "a/Dockerfile", "l/Dockerfile", "a/dockerfile"} {
		for _, kind := range []byte{tar.TypeReg, tar.TypeSymlink, tar.TypeLink, tar.TypeDir} {
			seed(tar.Header{Name: "Dockerfile", Typeflag: tar.TypeReg, Linkname: "x"}, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "."},
				tar.Header{Name: name, Typeflag: kind, Linkname: "l/y"}, tar.Header{Name: ".wh.Dockerfile", Typeflag: tar.TypeReg}, tar.Header{Name: "y", Typeflag: tar.TypeReg})
			seed(tar.Header{Name: name, Typeflag: kind, Linkname: "y"}, tar.Header{Name: "a", Typeflag: kind, Linkname: "b"}, tar.Header{Name: "a/Dockerfile", Typeflag: tar.TypeReg})
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, dockerfile string) {
		if name := path.Clean("/" + dockerfile)[1:]; name != "" && len(data) <= 1<<20 {
			checkContext(t, data, name)
		}
	})
}

// failer is what reports of both kinds of tests go to.
type failer interface {
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// checkContext reports whether an archive was taken, and fails if the Engine then reads what was not checked.
func checkContext(t failer, data []byte, name string) bool {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := &call{Guard: &Guard{}, ctx: ctx}
	b := &buildRequest{c: c, ctx: ctx, cancel: cancel, dockerfile: name}
	body := newBuildContext(c, b, nil, newBuildAnswer(c, b))
	body.check = func([]byte) ([]byte, error) { return []byte("checked"), nil }
	body.in = bufio.NewReader(bytes.NewReader(data))
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := body.write(w); err != nil {
		return false
	}
	if !bytes.HasPrefix(out.Bytes(), []byte("./\x00")) {
		t.Errorf("it begins with %q", out.Bytes()[:16])
	}
	u, err := unpack(out.Bytes())
	if err != nil {
		t.Fatalf("%v: %q", err, out.Bytes())
	}
	for _, choice := range []string{name, lowerName(name)} {
		at, ok := u.follow(choice, true)
		if n := u.files[at]; ok && n != nil && choice != "" {
			if n.kind != tar.TypeReg || n.data != "checked" {
				t.Errorf("the Engine reads %q at %s", n.data, at)
			}
			return true
		}
	}
	t.Errorf("the Engine finds no Dockerfile")
	return true
}

// TestBuildContextProperty: the same of archives made of the entries that matter.
func TestBuildContextProperty(t *testing.T) {
	t.Parallel()
	names := rapid.SampledFrom([]string{
		"Dockerfile", "dockerfile", "./Dockerfile", "a/../Dockerfile", "a", "a/x", "a/Dockerfile", "a/dockerfile", "l", "l/Dockerfile", "l/a/Dockerfile",
		"b/l", "b/l/Dockerfile", "x", ".", "..", ".wh.Dockerfile", "a/.wh..wh..opq",
	})
	kinds := rapid.SampledFrom([]byte{tar.TypeReg, tar.TypeReg, tar.TypeSymlink, tar.TypeLink, tar.TypeDir, tar.TypeFifo})
	taken := 0
	property := func(rt *rapid.T) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		name := rapid.SampledFrom([]string{"Dockerfile", "a/Dockerfile"}).Draw(rt, "dockerfile")
		for i := range rapid.IntRange(1, 6).Draw(rt, "entries") {
			h := tar.Header{Name: names.Draw(rt, "name"), Typeflag: kinds.Draw(rt, "kind")}
			if i == 0 && rapid.Bool().Draw(rt, "plain") {
				h = tar.Header{Name: name, Typeflag: tar.TypeReg}
			}
			if h.Typeflag == tar.TypeSymlink || h.Typeflag == tar.TypeLink {
				h.Linkname = names.Draw(rt, "link")
			}
			if h.Typeflag == tar.TypeReg {
				h.Size = 4
			}
			if h.Typeflag == tar.TypeDir {
				h.Name += "/"
			}
			if err := w.WriteHeader(&h); err != nil {
				rt.Fatalf("%v", err)
			}
			if h.Size > 0 {
				_, _ = io.WriteString(w, "evil")
			}
		}
		if err := w.Close(); err != nil {
			rt.Fatalf("%v", err)
		}
		if checkContext(rt, b.Bytes(), name) {
			taken++
		}
	}
	for range 30 {
		rapid.Check(t, property)
	}
	if taken == 0 {
		t.Error("no archive was taken")
	}
}
