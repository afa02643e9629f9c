package docker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
)

// containerdTime bounds what is asked of containerd: it answers out of its memory, if the machine lets it.
const containerdTime = 30 * time.Second

// containerdFolders asks the Engine's containerd where it has the layers of images, which are also BuildKit's, and the archives that
// they came in: the Engine does not know. Before 27 it does not even say where its containerd listens.
func (e *Engine) containerdFolders(ctx context.Context, m Machine) (layers, archives string, err error) {
	switch {
	case e.Socket() == "":
		return "", "", errors.New("its containerd may be on another machine")
	case m.ContainerdSocket == "":
		return "", "", errors.New("the Engine does not say where its containerd listens (27.0 and newer ones do)")
	}
	return askContainerd(ctx, m.ContainerdSocket, m.StorageDriver)
}

func askContainerd(ctx context.Context, socket, snapshotter string) (layers, archives string, err error) {
	ctx, cancel := context.WithTimeout(ctx, containerdTime)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", "", err
	}
	defer conn.Close()
	const snapshots, content = "io.containerd.snapshotter.v1", "io.containerd.content.v1"
	var query, answer []byte
	for _, filter := range []string{"type==" + snapshots + ",id==" + snapshotter, "type==" + content} {
		query = protowire.AppendString(protowire.AppendTag(query, 1, protowire.BytesType), filter)
	}
	if err := conn.Invoke(ctx, "/containerd.services.introspection.v1.Introspection/Plugins", &query, &answer, grpc.ForceCodec(asBytes{})); err != nil {
		return "", "", fmt.Errorf("ask containerd at %s for its folders: %w", socket, err)
	}
	err = eachField(answer, func(n protowire.Number, plugin []byte) error {
		if n != 1 {
			return nil
		}
		kind, root, err := readPlugin(plugin)
		switch kind {
		case snapshots:
			layers = root
		case content:
			archives = root
		}
		return err
	})
	if err == nil && !filepath.IsAbs(layers) {
		layers = ""
		err = fmt.Errorf("containerd at %s does not say where its %q has its files", socket, snapshotter)
	}
	return layers, archives, err
}

// readPlugin takes from what containerd says of one plugin its type, and the folder that it exports as its root.
func readPlugin(data []byte) (kind, root string, err error) {
	err = eachField(data, func(n protowire.Number, value []byte) error {
		switch n {
		case 1:
			kind = string(value)
		case 5: // an entry of a map
			var pair [2]string
			if err := eachField(value, func(n protowire.Number, text []byte) error {
				if n == 1 || n == 2 {
					pair[n-1] = string(text)
				}
				return nil
			}); err != nil {
				return err
			}
			if pair[0] == "root" {
				root = pair[1]
			}
		}
		return nil
	})
	return kind, root, err
}

// eachField goes through the texts and messages of a message.
func eachField(data []byte, do func(n protowire.Number, value []byte) error) error {
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, data); n < 0 {
				return protowire.ParseError(n)
			}
			data = data[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if err := do(number, value); err != nil {
			return err
		}
	}
	return nil
}

// asBytes leaves messages as they are: those of containerd are so few that they need no types.
type asBytes struct{}

func (asBytes) Marshal(v any) ([]byte, error) {
	if b, ok := v.(*[]byte); ok {
		return *b, nil
	}
	return nil, errors.ErrUnsupported
}

func (asBytes) Unmarshal(data []byte, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return errors.ErrUnsupported
	}
	*b = data
	return nil
}

func (asBytes) Name() string { return "proto" }
