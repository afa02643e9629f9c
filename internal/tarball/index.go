package tarball

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/internal/wire"
)

// What a descriptor may stand for, by its place. The Engine goes by these types, so nothing else may hide behind one.
var (
	indexTypes    = []string{"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
	manifestTypes = []string{"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"}
	configTypes   = []string{"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
	layerTypes    = []string{
		"application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.v1.tar+zstd",
		"application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar.zstd",
		typeStatement,
	}
)

const (
	typeEmpty     = "application/vnd.oci.empty.v1+json" // the configuration of what is no image: {}
	typeStatement = "application/vnd.in-toto+json"      // what an attestation has for layers
)

func (l *imageLoader) writeIndex(out *tar.Writer) error {
	index, err := decodeIndex(l.index)
	if err != nil {
		return err
	}
	if len(index.Manifests) > MaxImages {
		return badArchive("has more than %d images", MaxImages)
	}
	var kept []descriptor
	paths := 0
	for _, d := range index.Manifests {
		i := slices.IndexFunc(l.images, func(img Image) bool { return img.ID == d.Digest })
		if i < 0 { // an image with several names is there several times
			n, err := l.checkDescriptor(d, 0)
			if err != nil {
				return err
			}
			if paths += n; paths > maxArchivePaths {
				return badArchive("has more than %d manifests, as often as they are named", maxArchivePaths)
			}
			i = len(l.images)
			l.images = append(l.images, Image{ID: d.Digest})
			kept = append(kept, d.named(""))
		}
		if n := d.name(); n != "" {
			if err := l.addNames(&l.images[i], n); err != nil {
				return err
			}
		}
	}
	return writeJSON(out, archiveIndex, ociIndex{SchemaVersion: 2, MediaType: index.MediaType, Manifests: kept})
}

// maxNesting bounds how deep indexes may be in each other.
const maxNesting = 4

// imageManifest is a manifest or an index, as a decoder may take it that does not tell them apart.
type imageManifest struct {
	MediaType string       `json:"mediaType"`
	Manifests []descriptor `json:"manifests"`
	Config    *descriptor  `json:"config"`
	Layers    []descriptor `json:"layers"`
}

// blob is a small file of the archive, where its digest says that it should be.
func (l *imageLoader) blob(d descriptor) ([]byte, error) {
	data, ok := l.small["blobs/"+strings.Replace(d.Digest, ":", "/", 1)]
	sum := sha256.Sum256(data)
	if !ok || d.Digest != "sha256:"+hex.EncodeToString(sum[:]) {
		return nil, badArchive("lacks %s, or it is larger than %d bytes (an image of several platforms needs all of them: docker save --platform takes one)", wire.Printable(d.Digest), maxSmallFile)
	}
	return data, nil
}

// checkDescriptor makes sure that what a manifest or an index leads to is in the archive. It returns how many ways there are from
// it, or more than maxArchivePaths.
func (l *imageLoader) checkDescriptor(d descriptor, depth int) (paths int, err error) {
	if err := l.ctx.Err(); err != nil {
		return 0, err
	}
	isIndex := slices.Contains(indexTypes, d.MediaType)
	if !isIndex && !slices.Contains(manifestTypes, d.MediaType) || len(d.URLs) > 0 {
		return 0, badArchive("has %s of the type %q where an image should be", wire.Printable(d.Digest), wire.Printable(d.MediaType))
	}
	key := d.MediaType + " " + d.Digest
	if n, ok := l.checked[key]; ok {
		return n, nil
	}
	if depth > maxNesting {
		return 0, badArchive("has indexes in indexes, more than %d deep", maxNesting)
	}
	data, err := l.blob(d)
	if err != nil {
		return 0, err
	}
	var m imageManifest
	if err := wire.Decode(data, &m); err != nil {
		return 0, err
	}
	if m.MediaType != "" && m.MediaType != d.MediaType || isIndex && (m.Config != nil || m.Layers != nil) || !isIndex && m.Manifests != nil {
		return 0, badArchive("has %s, which is not what it is said to be", wire.Printable(d.Digest))
	}
	paths = 1
	for _, child := range m.Manifests {
		n, err := l.checkDescriptor(child, depth+1)
		if err != nil {
			return 0, err
		}
		paths = min(paths+n, maxArchivePaths+1)
	}
	if !isIndex {
		if err := l.checkManifest(d, m); err != nil {
			return 0, err
		}
	}
	l.checked[key] = paths
	return paths, nil
}

// checkManifest makes sure that an image's layers are in the archive, both as they are stored and as they are unpacked: the Engine
// looks for an unpacked layer among those that it has, whoever made them, before it reads a stored one.
func (l *imageLoader) checkManifest(d descriptor, m imageManifest) error {
	if m.Config == nil {
		return badArchive("has the image %s without a configuration", wire.Printable(d.Digest))
	}
	statements := 0
	for _, layer := range m.Layers {
		if !slices.Contains(layerTypes, layer.MediaType) || len(layer.URLs) > 0 {
			return badArchive("has a layer of the type %q in %s", wire.Printable(layer.MediaType), wire.Printable(d.Digest))
		}
		if !l.digests[layer.Digest] {
			return badArchive("lacks %s, which the image %s needs", wire.Printable(layer.Digest), wire.Printable(d.Digest))
		}
		if layer.MediaType == typeStatement {
			statements++
		}
	}
	config, err := l.blob(*m.Config)
	if err != nil {
		return err
	}
	if m.Config.MediaType == typeEmpty && string(config) == "{}" && statements == len(m.Layers) {
		return nil
	}
	if !slices.Contains(configTypes, m.Config.MediaType) {
		return badArchive("has a configuration of the type %q in %s", wire.Printable(m.Config.MediaType), wire.Printable(d.Digest))
	}
	layers, err := l.checkConfig(config)
	if err != nil {
		return err
	}
	if len(layers) != len(m.Layers) {
		return badArchive("has the image %s with %d layers, whose configuration has %d", wire.Printable(d.Digest), len(m.Layers), len(layers))
	}
	for i, layer := range m.Layers {
		if layers[i] != layer.Digest && layers[i] != l.inner[layer.Digest] {
			return badArchive("has the image %s with a layer that is not what its configuration says", wire.Printable(d.Digest))
		}
	}
	return nil
}
