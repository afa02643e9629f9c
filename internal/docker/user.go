package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"path"

	"github.com/moby/moby/client"
	"github.com/moby/sys/user"
)

// maxUsers bounds what is read of a container's /etc/passwd and /etc/group, in bytes.
const maxUsers = 1 << 20

// UserOf is whom the processes of a container run as, by number, as Docker finds it: by the container's own /etc/passwd and
// /etc/group where a name stands. The container need not run.
func (e *Engine) UserOf(ctx context.Context, id string) (uid, gid int, err error) {
	r, err := e.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if err != nil {
		return 0, 0, fmt.Errorf("inspect container: %w", err)
	}
	if r.Container.Config == nil || r.Container.Config.User == "" {
		return 0, 0, nil
	}
	var files [2]io.Reader
	for i, name := range []string{"/etc/passwd", "/etc/group"} {
		data, err := e.readFile(ctx, id, name)
		if err != nil && !IsNotFound(err) { // an image without users has numbers only
			return 0, 0, fmt.Errorf("read %s of the container: %w", name, err)
		}
		files[i] = bytes.NewReader(data)
	}
	found, err := user.GetExecUser(r.Container.Config.User, nil, files[0], files[1])
	if err != nil {
		return 0, 0, fmt.Errorf("the container's user %q: %w", r.Container.Config.User, err)
	}
	return found.Uid, found.Gid, nil
}

// readFile reads the beginning of a file of a container, which need not run.
func (e *Engine) readFile(ctx context.Context, id, name string) ([]byte, error) {
	for range 5 { // links
		r, err := e.api.CopyFromContainer(ctx, id, client.CopyFromContainerOptions{SourcePath: name})
		if err != nil {
			return nil, err
		}
		archive := tar.NewReader(r.Content)
		h, err := archive.Next()
		if err == nil && h.Typeflag == tar.TypeSymlink {
			r.Content.Close()
			if name = path.Join(path.Dir(name), h.Linkname); path.IsAbs(h.Linkname) {
				name = h.Linkname
			}
			continue
		}
		var data []byte
		if err == nil {
			data, err = io.ReadAll(io.LimitReader(archive, maxUsers))
		}
		r.Content.Close()
		return data, err
	}
	return nil, fmt.Errorf("%s is a chain of links", name)
}
