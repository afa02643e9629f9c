package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/moby/moby/client"
	"github.com/moby/sys/user"
)

// maxUsers bounds what is read of a container's /etc/passwd and /etc/group, in bytes.
const maxUsers = 1 << 20

// ErrNoUser says that an image does not know the user that a container of it is to run as.
var ErrNoUser = errors.New("the image has no such user")

// UserOf is whom the processes of a container run as, by number, as Docker finds it: by the image's own /etc/passwd and
// /etc/group where a name stands. To read them it makes a container of the name, image, platform and labels of c, which has nothing else of c and is
// never started: to copy files out of one that shares places with others can lead the Engine astray (CVE-2026-42306). The error may be ErrNoUser.
func (e *Engine) UserOf(ctx context.Context, c Container, spec string) (uid, gid int, err error) {
	if spec == "" {
		return 0, 0, nil
	}
	id, err := e.Create(ctx, Container{Name: c.Name, Image: c.Image, Platform: c.Platform, Labels: c.Labels, Network: "none", Cmd: []string{"true"}})
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
		defer cancel()
		err = errors.Join(err, e.Remove(ctx, id))
	}()
	var files [2]io.Reader
	for i, name := range []string{"/etc/passwd", "/etc/group"} {
		data, err := e.readFile(ctx, id, name)
		if err != nil && !IsNotFound(err) { // an image without users has numbers only
			return 0, 0, fmt.Errorf("read %s of the image: %w", name, err)
		}
		files[i] = bytes.NewReader(data)
	}
	found, err := user.GetExecUser(spec, nil, files[0], files[1])
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %q: %w", ErrNoUser, spec, err)
	}
	return found.Uid, found.Gid, nil
}

// removeTimeout bounds the removal of a container that was made to be looked into.
const removeTimeout = 10 * time.Second

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
	return nil, fmt.Errorf("%w: it is a chain of links", ErrNoUser)
}
