package tarball

import (
	"encoding/json"
	"strings"

	"github.com/slipway-ci/slipway/internal/wire"
)

// An archive of images has the names of its images in up to three files. The Engine gets an archive without any, and tells
// which images were in it; names are given afterwards, as docker tag does. What the Engine sends has none either, and gets
// those that its reader knows.
const (
	archiveManifest = "manifest.json" // of docker save
	archiveIndex    = "index.json"    // of an OCI image layout
	archiveOldNames = "repositories"  // of docker before 1.10
)

// isNamesFile reports whether a file of an archive says what its images are called.
func isNamesFile(name string) bool {
	return name == archiveManifest || name == archiveIndex || name == archiveOldNames
}

// MaxImages is how many images an archive may have.
const MaxImages = 100

// The bounds of an archive.
const (
	maxArchiveFiles = 100_000
	maxArchivePaths = 4096     // from index.json to manifests and indexes, each way counted: the Engine walks them all
	maxNamesFile    = 4 << 20  // bytes of manifest.json or index.json
	maxSmallFile    = 1 << 20  // bytes of what may be a configuration or a manifest
	maxSmallFiles   = 32 << 20 // of all of them together
	maxEntryName    = 4096     // bytes of an entry's path, as Linux takes them
	maxEntryNames   = 16 << 20 // of all of them together
	maxUnpacked     = 64 << 30 // bytes that all layers have decompressed: a minute or two of hashing
)

// manifestEntry is an image in manifest.json.
type manifestEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// The annotations that are an image's name in index.json.
//
// Docker: the first wins; the second counts if it is a whole name.
const (
	annotationImageName = "io.containerd.image.name"
	annotationRefName   = "org.opencontainers.image.ref.name"

	// Of an attestation: which image it is of.
	annotationReferenceType   = "vnd.docker.reference.type"
	annotationReferenceDigest = "vnd.docker.reference.digest"
)

// descriptor names a piece of an OCI image by its content.
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Platform     json.RawMessage   `json:"platform,omitempty"`
	ArtifactType string            `json:"artifactType,omitempty"`
	URLs         []string          `json:"urls,omitempty"` // where else it could be had
}

// ociIndex is index.json, or an index in it.
type ociIndex struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType,omitempty"`
	Manifests     []descriptor      `json:"manifests"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// name is what a descriptor of index.json says that its image is called, "" = nothing.
func (d descriptor) name() string {
	if n := d.Annotations[annotationImageName]; n != "" {
		return n
	}
	if n := d.Annotations[annotationRefName]; strings.ContainsAny(n, "/:") {
		return n
	}
	return ""
}

// named is the descriptor with a name, or with none.
func (d descriptor) named(name string) descriptor {
	annotations := map[string]string{}
	for _, k := range []string{annotationReferenceType, annotationReferenceDigest} { // all others may mean something to the Engine
		if v, ok := d.Annotations[k]; ok {
			annotations[k] = v
		}
	}
	if name != "" {
		annotations[annotationImageName] = name
		if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
			annotations[annotationRefName] = name[i+1:]
		}
	}
	d.Annotations = annotations
	return d
}

// decodeIndex reads an index strictly.
func decodeIndex(data []byte) (*ociIndex, error) {
	var index ociIndex
	if err := wire.Decode(data, &index); err != nil {
		return nil, err
	}
	return &index, nil
}

// decodeManifest reads manifest.json strictly.
func decodeManifest(data []byte) ([]manifestEntry, error) {
	var entries []manifestEntry
	if err := wire.Decode(data, &entries); err != nil {
		return nil, err
	}
	return entries, nil
}

// badArchive refuses an archive that does not hold what it should.
func badArchive(format string, args ...any) error {
	return deny("image-archive", "make it with docker save", "the archive "+format, args...)
}
