package tarball

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/klauspost/compress/zstd"

	"github.com/slipway-ci/slipway/internal/tartest"
)

// layoutOf makes an archive of an OCI image layout.
type layoutOf struct {
	t     testing.TB
	files []tartest.File
}

// blob adds content and returns its descriptor.
func (o *layoutOf) blob(mediaType, content string) descriptor {
	d := describe(mediaType, content)
	f := tartest.File{Name: "blobs/" + strings.Replace(d.Digest, ":", "/", 1), Content: content}
	if !slices.Contains(o.files, f) {
		o.files = append(o.files, f)
	}
	return d
}

func describe(mediaType, content string) descriptor {
	sum := sha256.Sum256([]byte(content))
	return descriptor{MediaType: mediaType, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(content))}
}

func (o *layoutOf) json(mediaType string, v map[string]any) descriptor {
	o.t.Helper()
	v["schemaVersion"] = 2
	data, err := json.Marshal(v)
	if err != nil {
		o.t.Fatal(err)
	}
	return o.blob(mediaType, string(data))
}

// archive is the whole of it, with these images.
func (o *layoutOf) archive(images ...descriptor) string {
	o.t.Helper()
	data, err := json.Marshal(ociIndex{SchemaVersion: 2, Manifests: images})
	if err != nil {
		o.t.Fatal(err)
	}
	return tartest.Of(o.t, append(slices.Clone(o.files), tartest.File{Name: "oci-layout", Content: `{"imageLayoutVersion": "1.0.0"}`}, tartest.File{Name: archiveIndex, Content: string(data)})...)
}

// configOf is an image's configuration with these layers, unpacked.
func configOf(layers ...string) string {
	var ids []string
	for _, l := range layers {
		ids = append(ids, describe("", l).Digest)
	}
	data, _ := json.Marshal(ids) // strings
	return `{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":` + string(data) + `}}`
}

func zip(t *testing.T, content string) string {
	t.Helper()
	var b strings.Builder
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, content); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func zstandard(t *testing.T, content string) string {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(z.EncodeAll([]byte(content), nil))
}

const (
	ociIndexType  = "application/vnd.oci.image.index.v1+json"
	ociManifest   = "application/vnd.oci.image.manifest.v1+json"
	ociConfig     = "application/vnd.oci.image.config.v1+json"
	ociLayer      = "application/vnd.oci.image.layer.v1.tar"
	dockerConfig  = "application/vnd.docker.container.image.v1+json"
	foreignLayer  = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	helmConfig    = "application/vnd.cncf.helm.config.v1+json"
	dockerLayerGz = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// readLayout reads an archive as for an Engine with containerd's store, and returns what that would get.
func readLayout(t *testing.T, ctx context.Context, archive string) (*imageLoader, map[string]string, error) {
	t.Helper()
	l := newImageLoader(ctx, Load{Containerd: true, CheckName: func(name string) error {
		_, err := reference.ParseNormalizedNamed(name)
		return err
	}})
	var out bytes.Buffer
	if err := l.rewrite(&out, strings.NewReader(archive)); err != nil {
		return l, nil, err
	}
	files := map[string]string{}
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if err == io.EOF {
			return l, files, nil
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(data)
	}
}

// TestLayouts reads what docker save and BuildKit write: several platforms, attestations in both of their forms, all compressions.
func TestLayouts(t *testing.T) {
	t.Parallel()
	base, top := tartest.Of(t, tartest.File{Name: "base", Content: "b"}), tartest.Of(t, tartest.File{Name: "top", Content: "t"})
	o := &layoutOf{t: t}
	image := o.json(ociManifest, map[string]any{
		"mediaType": ociManifest, "config": o.blob(ociConfig, configOf(base, top, top, base)),
		"layers": []descriptor{o.blob(ociLayer, base), o.blob(ociLayer+"+gzip", zip(t, top)), o.blob(ociLayer+"+zstd", zstandard(t, top)), o.blob(dockerLayerGz, zip(t, base))},
	})
	statement := `{"_type":"https://in-toto.io/Statement/v0.1"}`
	attestation := o.json(ociManifest, map[string]any{"config": o.blob(ociConfig, configOf(statement)), "layers": []descriptor{o.blob(typeStatement, statement)}})
	artifact := o.json(ociManifest, map[string]any{"config": o.blob(typeEmpty, "{}"), "layers": []descriptor{o.blob(typeStatement, statement)}})
	index := o.json(ociIndexType, map[string]any{"mediaType": ociIndexType, "manifests": []descriptor{image, attestation, artifact}})
	named := index
	named.Annotations = map[string]string{annotationImageName: "docker.io/library/app:1", annotationRefName: "1", "io.containerd.manifest.subject": "x", annotationReferenceType: "kept"}
	again := index
	again.Annotations = map[string]string{annotationImageName: "docker.io/library/app:2"}
	l, files, err := readLayout(t, t.Context(), o.archive(named, again, image))
	if err != nil {
		t.Fatal(err)
	}
	if len(l.images) != 2 || l.images[0].ID != index.Digest || !slices.Equal(l.images[0].Names, []string{"docker.io/library/app:1", "docker.io/library/app:2"}) || l.images[1].ID != image.Digest {
		t.Errorf("found %+v", l.images)
	}
	var got ociIndex
	if err := json.Unmarshal([]byte(files[archiveIndex]), &got); err != nil || len(got.Manifests) != 2 {
		t.Fatalf("%v %s", err, files[archiveIndex])
	}
	if a := got.Manifests[0].Annotations; len(a) != 1 || a[annotationReferenceType] != "kept" {
		t.Errorf("the Engine is told %v", a)
	}
}

// TestLayoutAttacks would have the Engine take layers of others for those of the archive.
func TestLayoutAttacks(t *testing.T) {
	t.Parallel()
	mine, victims := tartest.Of(t, tartest.File{Name: "mine", Content: "m"}), tartest.Of(t, tartest.File{Name: "secret", Content: "of another job"})
	for name, attack := range map[string]func(o *layoutOf) descriptor{
		"a victim's layers in the configuration": func(o *layoutOf) descriptor {
			return o.json(ociManifest, map[string]any{"config": o.blob(ociConfig, configOf(victims)), "layers": []descriptor{o.blob(ociLayer, mine)}})
		},
		"more layers in the configuration": func(o *layoutOf) descriptor {
			return o.json(ociManifest, map[string]any{"config": o.blob(ociConfig, configOf(mine, mine)), "layers": []descriptor{o.blob(ociLayer, mine)}})
		},
		"layers in another order": func(o *layoutOf) descriptor {
			other := tartest.Of(t, tartest.File{Name: "other"})
			return o.json(ociManifest, map[string]any{"config": o.blob(ociConfig, configOf(mine, other)), "layers": []descriptor{o.blob(ociLayer, other), o.blob(ociLayer, mine)}})
		},
		"a configuration that is not there": func(o *layoutOf) descriptor {
			return o.json(ociManifest, map[string]any{"config": describe(ociConfig, configOf(mine)), "layers": []descriptor{o.blob(ociLayer, mine)}})
		},
		"a configuration that is too large": func(o *layoutOf) descriptor {
			return o.json(ociManifest, map[string]any{"config": o.blob(ociConfig, configOf(victims)+strings.Repeat(" ", maxSmallFile)), "layers": []descriptor{o.blob(ociLayer, mine)}})
		},
		"no configuration": func(o *layoutOf) descriptor {
			return o.json(ociManifest, map[string]any{"layers": []descriptor{o.blob(ociLayer, mine)}})
		},
		"an empty configuration that is not": func(o *layoutOf) descriptor {
			return o.json(ociManifest, map[string]any{"config": o.blob(typeEmpty, configOf(victims)), "layers": []descriptor{o.blob(typeStatement, mine)}})
		},
		"an empty configuration with layers": func(o *layoutOf) descriptor {
			return o.json(ociManifest, map[string]any{"config": o.blob(typeEmpty, "{}"), "layers": []descriptor{o.blob(ociLayer, mine)}})
		},
		"a manifest as a layer": func(o *layoutOf) descriptor {
			hidden := o.json(ociManifest, map[string]any{"config": describe(ociConfig, "x"), "layers": []descriptor{describe(ociLayer, victims)}})
			return o.json(ociManifest, map[string]any{"config": o.blob(ociConfig, configOf(mine)), "layers": []descriptor{hidden}})
		},
		"an index as a configuration": func(o *layoutOf) descriptor {
			hidden := o.json(ociIndexType, map[string]any{"manifests": []descriptor{describe(ociManifest, "x")}})
			return o.json(ociManifest, map[string]any{"config": hidden, "layers": []descriptor{}})
		},
		"an index that is a manifest too": func(o *layoutOf) descriptor {
			return o.json(ociIndexType, map[string]any{"manifests": []descriptor{}, "config": describe(ociConfig, "x"), "layers": []descriptor{describe(ociLayer, victims)}})
		},
		"a manifest that is an index too": func(o *layoutOf) descriptor {
			return o.json(ociManifest, map[string]any{"config": o.blob(dockerConfig, configOf(mine)), "layers": []descriptor{o.blob(ociLayer, mine)}, "manifests": []descriptor{describe(ociManifest, "x")}})
		},
		"a type within that is another": func(o *layoutOf) descriptor {
			return o.json(ociManifest, map[string]any{"mediaType": ociIndexType, "config": o.blob(ociConfig, configOf(mine)), "layers": []descriptor{o.blob(ociLayer, mine)}})
		},
		"an image of another platform that is not there": func(o *layoutOf) descriptor {
			good := o.json(ociManifest, map[string]any{"config": o.blob(ociConfig, configOf(mine)), "layers": []descriptor{o.blob(ociLayer, mine)}})
			return o.json(ociIndexType, map[string]any{"manifests": []descriptor{good, describe(ociManifest, "a victim's")}})
		},
		"a layer from elsewhere": func(o *layoutOf) descriptor {
			d := o.blob(ociLayer, mine)
			d.URLs = []string{"http://127.0.0.1/"}
			return o.json(ociManifest, map[string]any{"config": o.blob(ociConfig, configOf(mine)), "layers": []descriptor{d}})
		},
		"a foreign layer": func(o *layoutOf) descriptor {
			return o.json(ociManifest, map[string]any{"config": o.blob(ociConfig, configOf(mine)), "layers": []descriptor{o.blob(foreignLayer, mine)}})
		},
		"what is no image": func(o *layoutOf) descriptor {
			return o.json(ociManifest, map[string]any{"config": o.blob(helmConfig, configOf(mine)), "layers": []descriptor{o.blob(ociLayer, mine)}})
		},
		"a layer as an image": func(o *layoutOf) descriptor { return o.blob(ociLayer, mine) },
		"keys in two cases": func(o *layoutOf) descriptor {
			config, layer := o.blob(ociConfig, configOf(mine)), o.blob(ociLayer, mine)
			return o.blob(ociManifest, fmt.Sprintf(`{"config":{"mediaType":%q,"digest":%q},"layers":[{"mediaType":%q,"digest":%q}],"Layers":[]}`, ociConfig, config.Digest, ociLayer, layer.Digest))
		},
		"many indexes in each other": func(o *layoutOf) descriptor {
			d := o.json(ociManifest, map[string]any{"config": o.blob(ociConfig, configOf(mine)), "layers": []descriptor{o.blob(ociLayer, mine)}})
			for range maxNesting + 2 {
				d = o.json(ociIndexType, map[string]any{"manifests": slices.Repeat([]descriptor{d}, 100)})
			}
			return d
		},
		"a bad name": func(o *layoutOf) descriptor {
			d := o.json(ociManifest, map[string]any{"config": o.blob(ociConfig, configOf(mine)), "layers": []descriptor{o.blob(ociLayer, mine)}})
			d.Annotations = map[string]string{annotationImageName: "not a valid name!!"}
			return d
		},
	} {
		o := &layoutOf{t: t}
		d := attack(o)
		if _, _, err := readLayout(t, t.Context(), o.archive(d)); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := readLayout(t, gone, (&layoutOf{t: t}).archive()); !errors.Is(err, context.Canceled) {
		t.Errorf("an archive of a client that is gone: %v", err)
	}
}

// FuzzLoad: of whatever is taken, the Engine gets files of different names, the last of which says what the images are, without
// names; read again, it holds the same images.
func FuzzLoad(f *testing.F) {
	mine := tartest.Of(f, tartest.File{Name: "mine", Content: "m"})
	o := &layoutOf{t: f}
	config, layer := o.blob(ociConfig, configOf(mine)), o.blob(ociLayer, mine)
	d := o.json(ociManifest, map[string]any{"config": config, "layers": []descriptor{layer}})
	d.Annotations = map[string]string{annotationImageName: "docker.io/library/app:1"}
	path := func(d descriptor) string { return "blobs/" + strings.Replace(d.Digest, ":", "/", 1) }
	saved := tartest.File{Name: archiveManifest, Content: fmt.Sprintf(`[{"Config":%q,"RepoTags":["app:1"],"Layers":[%q]}]`, path(config), path(layer))}
	f.Add([]byte(o.archive(d)), true)
	f.Add([]byte(tartest.Of(f, append(slices.Clone(o.files), saved)...)), false)
	f.Add([]byte("noise"), false)
	f.Fuzz(func(t *testing.T, data []byte, containerd bool) {
		load := Load{Containerd: containerd, CheckName: func(string) error { return nil }}
		var sent, again bytes.Buffer
		images, err := load.Copy(t.Context(), &sent, bytes.NewReader(data))
		if err != nil {
			return
		}
		seen, last := map[string]bool{}, ""
		for r := tar.NewReader(bytes.NewReader(sent.Bytes())); ; {
			h, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if last = strings.TrimSuffix(h.Name, "/"); seen[last] && h.Typeflag != tar.TypeDir {
				t.Errorf("two entries of the name %q", last)
			}
			seen[last] = true
		}
		if !isNamesFile(last) || seen[archiveManifest] && seen[archiveIndex] {
			t.Errorf("the last entry is %q of %v", last, seen)
		}
		same, err := load.Copy(t.Context(), &again, bytes.NewReader(sent.Bytes()))
		if err != nil || len(same) != len(images) {
			t.Fatalf("%d images, then %d, %v", len(images), len(same), err)
		}
		for i, img := range same {
			if img.ID != images[i].ID || len(img.Names) > 0 || !slices.Equal(img.Layers, images[i].Layers) {
				t.Errorf("%+v became %+v", images[i], img)
			}
		}
	})
}

// TestWideIndex: the reader looks at each manifest once, but the Engine walks there each time that it is named.
func TestWideIndex(t *testing.T) {
	t.Parallel()
	mine := tartest.Of(t, tartest.File{Name: "mine", Content: "m"})
	o := &layoutOf{t: t}
	d := o.json(ociManifest, map[string]any{"config": o.blob(ociConfig, configOf(mine)), "layers": []descriptor{o.blob(ociLayer, mine)}})
	times := func(n int, d descriptor) descriptor {
		return o.json(ociIndexType, map[string]any{"manifests": slices.Repeat([]descriptor{d}, n)})
	}
	deep := d
	for range maxNesting {
		deep = times(3000, deep) // 3000⁴ paths
	}
	many := func(n int) (list []descriptor) {
		for i := range n {
			list = append(list, o.json(ociIndexType, map[string]any{"manifests": []descriptor{times(70, d)}, "annotations": map[string]string{"n": fmt.Sprint(i)}}))
		}
		return list
	}
	for name, images := range map[string][]descriptor{"deep": {deep}, "wide": {times(maxArchivePaths, d)}, "many images": many(60)} {
		if _, _, err := readLayout(t, t.Context(), o.archive(images...)); err == nil || !strings.Contains(err.Error(), "as often as they are named") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, images := range map[string][]descriptor{
		"an image with many names": slices.Repeat([]descriptor{times(maxArchivePaths-1, d)}, 50), "shared by images": many(50),
	} {
		if _, _, err := readLayout(t, t.Context(), o.archive(images...)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNamesOfArchivesAreBounded: their names are kept in memory.
func TestNamesOfArchivesAreBounded(t *testing.T) {
	t.Parallel()
	var many []tartest.File
	for i := range maxEntryNames/4000 + 10 {
		many = append(many, tartest.File{Name: fmt.Sprint(i, strings.Repeat("x", 3990))})
	}
	if _, _, err := readLayout(t, t.Context(), tartest.Of(t, many...)); err == nil || !strings.Contains(err.Error(), "bytes together") {
		t.Errorf("%v", err)
	}
	deep := strings.Repeat("d/", maxEntryName/2-1) + "f" // as many folders
	l, _, err := readLayout(t, t.Context(), tartest.Of(t, slices.Repeat([]tartest.File{{Name: deep}}, 1)...))
	if err == nil || len(l.kinds) != maxEntryName/2 {
		t.Errorf("%v, %d entries", err, len(l.kinds))
	}
}

// TestUnpackedIsBounded: what is small may hold much.
func TestUnpackedIsBounded(t *testing.T) {
	t.Parallel()
	zeros := strings.Repeat("\x00", 1<<20)
	for name, packed := range map[string]string{"gzip": zip(t, zeros), "zstd": zstandard(t, zeros)} {
		whole, cut := newDigester(t.Context(), 1<<20), newDigester(t.Context(), 1<<20-1)
		for _, d := range []*digester{whole, cut} {
			if _, err := io.WriteString(d, packed); err != nil {
				t.Fatal(err)
			}
		}
		if _, in := whole.end(); in.digest != describe("", zeros).Digest || in.size != 1<<20 {
			t.Errorf("%s: %+v", name, in)
		}
		if _, in := cut.end(); in.digest != "" || in.size <= 1<<20-1 {
			t.Errorf("%s, too much: %+v", name, in)
		}
	}
}

// TestUnpackingEnds: what a few bytes hold is not unpacked for a client that is gone.
func TestUnpackingEnds(t *testing.T) {
	t.Parallel()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	d := newDigester(gone, 1<<40)
	if _, err := io.WriteString(d, zip(t, "much")); err != nil {
		t.Fatal(err)
	}
	if _, in := d.end(); in.digest != "" || in.size != 0 {
		t.Errorf("%+v", in)
	}
}
