package demo

import (
	"archive/tar"
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// File is one entry of an image: a regular file, or a symbolic link when Link is set. A path that ends in "/" is a folder.
type File struct {
	Mode    int64 // permission bits; 0 = 0644, for a folder 0755
	Content []byte
	Link    string // what the link points to
}

// layer is the tar of everything the recipe names, ordered by path and with one date, so that it is the same each time.
func (r Recipe) layer() ([]byte, error) {
	files := maps.Clone(r.Files)
	if files == nil {
		files = map[string]File{}
	}
	programs := maps.Clone(r.Programs)
	if programs == nil {
		programs = map[string]string{}
	}
	if r.Applets {
		if err := addApplets(files); err != nil {
			return nil, err
		}
		programs["/bin/busybox"] = "busybox"
	}
	for at, program := range programs {
		if err := addProgram(files, at, program); err != nil {
			return nil, err
		}
	}
	addFolders(files)
	return pack(files)
}

// addApplets links every applet of busybox to it, at the path where busybox would install it.
func addApplets(files map[string]File) error {
	list, err := exec.Command("busybox", "--list-full").Output()
	if err != nil {
		return fmt.Errorf("list the applets of busybox (Debian package busybox-static): %w", err)
	}
	for applet := range strings.Lines(string(list)) {
		at := "/" + strings.TrimSpace(applet)
		if _, taken := files[at]; !taken && at != "/bin/busybox" {
			files[at] = File{Link: "/bin/busybox"}
		}
	}
	return nil
}

// addProgram puts a program at a path of the image, and its libraries at the paths where its loader looks for them.
func addProgram(files map[string]File, at, program string) error {
	found, err := exec.LookPath(program)
	if err != nil {
		return fmt.Errorf("find the program %s: %w", program, err)
	}
	if found, err = filepath.Abs(found); err != nil {
		return fmt.Errorf("find the program %s: %w", program, err)
	}
	libraries, err := libraries(found)
	if err != nil {
		return err
	}
	sources := map[string]string{at: found}
	for _, lib := range libraries {
		sources[lib] = lib
	}
	for to, from := range sources {
		content, err := os.ReadFile(from)
		if err != nil {
			return fmt.Errorf("read %s for an image: %w", from, err)
		}
		files[to] = File{Mode: 0o755, Content: content}
	}
	return nil
}

// addFolders adds the folders above every entry that the recipe does not name itself.
func addFolders(files map[string]File) {
	for _, name := range slices.Collect(maps.Keys(files)) {
		for dir := path.Dir(strings.TrimSuffix(name, "/")); dir != "/"; dir = path.Dir(dir) {
			if _, named := files[dir+"/"]; !named {
				files[dir+"/"] = File{}
			}
		}
	}
}

func pack(files map[string]File) ([]byte, error) {
	var out bytes.Buffer
	size := 0
	for _, f := range files {
		size += len(f.Content) + 2048
	}
	out.Grow(size)
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f := files[name]
		h := &tar.Header{
			Name: strings.TrimPrefix(name, "/"), Mode: f.Mode, Size: int64(len(f.Content)),
			Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
		}
		switch {
		case strings.HasSuffix(name, "/"):
			h.Typeflag = tar.TypeDir
			h.Mode = cmp.Or(f.Mode, 0o755)
		case f.Link != "":
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
		default:
			h.Mode = cmp.Or(f.Mode, 0o644)
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("pack %s into a layer: %w", name, err)
		}
		if _, err := w.Write(f.Content); err != nil {
			return nil, fmt.Errorf("pack %s into a layer: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("pack a layer: %w", err)
	}
	return out.Bytes(), nil
}
