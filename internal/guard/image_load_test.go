package guard

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// layoutOf makes an archive of an OCI image layout.
type layoutOf struct {
	t     *testing.T
	files []archiveFile
}

// blob adds content and returns its descriptor.
func (o *layoutOf) blob(mediaType, content string) descriptor {
	d := describe(mediaType, content)
	f := archiveFile{name: "blobs/" + strings.Replace(d.Digest, ":", "/", 1), content: content}
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
	return tarOf(o.t, append(slices.Clone(o.files), archiveFile{name: "oci-layout", content: `{"imageLayoutVersion": "1.0.0"}`}, archiveFile{name: archiveIndex, content: string(data)})...)
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
	return string(gzipped([]byte(content)))
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
	c := &call{Guard: &Guard{engine: &upstream{containerd: true}}, ctx: ctx}
	l := newImageLoader(c)
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
	base, top := tarOf(t, archiveFile{name: "base", content: "b"}), tarOf(t, archiveFile{name: "top", content: "t"})
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
	if len(l.images) != 2 || l.images[0].id != index.Digest || !slices.Equal(l.images[0].names, []string{"docker.io/library/app:1", "docker.io/library/app:2"}) || l.images[1].id != image.Digest {
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
	mine, victims := tarOf(t, archiveFile{name: "mine", content: "m"}), tarOf(t, archiveFile{name: "secret", content: "of another job"})
	for name, attack := range map[string]func(o *layoutOf) descriptor{
		"a victim's layers in the configuration": func(o *layoutOf) descriptor {
			return o.json(ociManifest, map[string]any{"config": o.blob(ociConfig, configOf(victims)), "layers": []descriptor{o.blob(ociLayer, mine)}})
		},
		"more layers in the configuration": func(o *layoutOf) descriptor {
			return o.json(ociManifest, map[string]any{"config": o.blob(ociConfig, configOf(mine, mine)), "layers": []descriptor{o.blob(ociLayer, mine)}})
		},
		"layers in another order": func(o *layoutOf) descriptor {
			other := tarOf(t, archiveFile{name: "other"})
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

// TestWideIndex: the guard looks at each manifest once, but the Engine walks there each time that it is named.
func TestWideIndex(t *testing.T) {
	t.Parallel()
	mine := tarOf(t, archiveFile{name: "mine", content: "m"})
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
	var many []archiveFile
	for i := range maxEntryNames/4000 + 10 {
		many = append(many, archiveFile{name: fmt.Sprint(i, strings.Repeat("x", 3990))})
	}
	if _, _, err := readLayout(t, t.Context(), tarOf(t, many...)); err == nil || !strings.Contains(err.Error(), "bytes together") {
		t.Errorf("%v", err)
	}
	deep := strings.Repeat("d/", maxEntryName/2-1) + "f" // as many folders
	l, _, err := readLayout(t, t.Context(), tarOf(t, slices.Repeat([]archiveFile{{name: deep}}, 1)...))
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

// TestLoadsInTurn: a job that lets an archive wait keeps its own others waiting, not those of its neighbours.
func TestLoadsInTurn(t *testing.T) {
	t.Parallel()
	// An Engine of today would wait for the rest, too, before it takes another archive.
	a, b := newRig(t, func(o *Options) { o.patience = 2 * time.Second }), newRig(t, newScope)
	mine := &layoutOf{t: t}
	content := tarOf(t, archiveFile{name: "mine", content: "of " + a.policy.Token})
	layer, config := mine.blob(ociLayer, content), mine.blob(ociConfig, configOf(content))
	path := func(d descriptor) string { return "blobs/" + strings.Replace(d.Digest, ":", "/", 1) }
	data, _ := json.Marshal([]manifestEntry{{Config: path(config), Layers: []string{path(layer)}}}) // strings
	mine.files = append(mine.files, archiveFile{name: archiveManifest, content: string(data)})
	archive := mine.archive(mine.json(ociManifest, map[string]any{"mediaType": ociManifest, "config": config, "layers": []descriptor{layer}}))
	var answer *bufio.Reader
	for range cap(loads) + 1 {
		conn, err := net.Dial("unix", a.Socket())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "POST /images/load HTTP/1.1\r\nHost: guard\r\nContent-Type: application/x-tar\r\nContent-Length: %d\r\n\r\n%s", len(archive), archive[:512])
		answer = bufio.NewReader(conn)
	}
	eventually(t, "a load at work", func() bool { return len(a.load) == 1 })
	if status, text := b.do(http.MethodPost, "/images/load", archive, "Content-Type", "application/x-tar"); status != http.StatusOK {
		t.Fatal(status, text)
	}
	// Whose archive does not come is told so, and its place is free.
	resp, err := http.ReadResponse(answer, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusRequestTimeout || !strings.Contains(string(text), "did not come in time") {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	if status, text := a.do(http.MethodPost, "/images/load", archive, "Content-Type", "application/x-tar"); status != http.StatusOK {
		t.Error(status, text)
	}
}

// TestPacedBody: who sends little by little gets little time; who sends much may also pause.
func TestPacedBody(t *testing.T) {
	t.Parallel()
	for pause, want := range map[time.Duration]int{10 * time.Millisecond: http.StatusOK, 80 * time.Millisecond: http.StatusRequestTimeout} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c := &call{Guard: &Guard{patience: 300 * time.Millisecond}, w: w, r: r}
			_, err := io.Copy(io.Discard, c.paced())
			var a *apiError
			if errors.As(err, &a) {
				w.WriteHeader(a.Status)
			}
		}))
		t.Cleanup(srv.Close)
		body, out := io.Pipe()
		go func() {
			for range 10 {
				time.Sleep(pause)
				if _, err := out.Write([]byte("x")); err != nil {
					return
				}
			}
			out.Close()
		}()
		resp, err := http.Post(srv.URL, "", body)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("a pause of %s before each byte: %d, want %d", pause, resp.StatusCode, want)
		}
	}
}

// TestLoadBelievesNoID: an Engine that tells of another image than the archive's does not give it to the job.
func TestLoadBelievesNoID(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	doc, found, err := r.inspectImage(t.Context(), alpine)
	if err != nil || !found || len(doc.RootFS.Layers) == 0 {
		t.Fatalf("%+v %v %v", doc, found, err)
	}
	l := newImageLoader(&call{Guard: r.Guard, ctx: t.Context()})
	l.images = []loadedImage{{layers: []string{describe("", "mine").Digest}}}
	if images, err := l.loaded(t.Context(), []string{doc.ID}); err == nil || len(images) != 0 {
		t.Errorf("%v %v", images, err)
	}
	l.images[0].layers = doc.RootFS.Layers
	if images, err := l.loaded(t.Context(), []string{doc.ID}); err != nil || len(images) != 1 || images[0].id != doc.ID {
		t.Errorf("%v %v", images, err)
	}
}

// TestLoadedIDs reads only what nobody but the Engine can have written.
func TestLoadedIDs(t *testing.T) {
	t.Parallel()
	id, other := describe("", "a").Digest, describe("", "b").Digest
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, text := range []string{
		"Error unpacking image x\nLoaded image ID: " + other + "\n: failed", "Loaded image: x\nLoaded image ID: " + other + "\n", "Loaded image ID: " + other,
		"Loaded image ID: " + id + "\n", "Loaded image ID: " + other + "\n\n",
	} {
		if err := enc.Encode(map[string]string{"stream": text}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := loadedIDs(&http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(&b)})
	if err != nil || !slices.Equal(got, []string{id}) {
		t.Errorf("%q %v", got, err)
	}
}

// TestLoadTakesTheSnapshotOfNobody loads an image on the real Engine whose configuration names the layers of another job's.
func TestLoadTakesTheSnapshotOfNobody(t *testing.T) {
	t.Parallel()
	a, b := newRig(t), newRig(t, newScope)
	secret := tarOf(t, archiveFile{name: "secret", content: "of " + a.policy.Token})
	good := &layoutOf{t: t}
	layer := good.blob(ociLayer, secret)
	config := good.blob(ociConfig, configOf(secret))
	image := good.json(ociManifest, map[string]any{"mediaType": ociManifest, "config": config, "layers": []descriptor{layer}})
	// For both stores: an OCI layout with docker save's manifest beside it.
	both := func(o *layoutOf, d descriptor, config, layer descriptor, name string) string {
		path := func(d descriptor) string { return "blobs/" + strings.Replace(d.Digest, ":", "/", 1) }
		data, _ := json.Marshal([]manifestEntry{{Config: path(config), RepoTags: []string{name}, Layers: []string{path(layer)}}}) // strings
		o.files = append(o.files, archiveFile{name: archiveManifest, content: string(data)})
		d.Annotations = map[string]string{annotationImageName: "docker.io/library/" + name}
		return o.archive(d)
	}
	if status, text := a.do(http.MethodPost, "/images/load", both(good, image, config, layer, "mine:1"), "Content-Type", "application/x-tar"); status != http.StatusOK {
		t.Fatal(status, text)
	}
	if !a.sees("mine:1") {
		t.Error("the image is not there under its name")
	}
	bad := &layoutOf{t: t}
	junk := bad.blob(ociLayer, tarOf(t, archiveFile{name: "junk", content: b.policy.Token}))
	stolen := bad.blob(ociConfig, strings.Replace(configOf(secret), `"config":{}`, `"config":{"Labels":{"a":"b"}}`, 1))
	image = bad.json(ociManifest, map[string]any{"mediaType": ociManifest, "config": stolen, "layers": []descriptor{junk}})
	if status, text := b.do(http.MethodPost, "/images/load", both(bad, image, stolen, junk, "stolen:1"), "Content-Type", "application/x-tar"); status != http.StatusForbidden || !strings.Contains(text, "[image-archive]") {
		t.Errorf("%d %s", status, text)
	}
	if b.sees("stolen:1") || b.sees(image.Digest) || b.sees(stolen.Digest) {
		t.Error("the image of another job was had by the digests of its layers")
	}
}

// TestImportIsRewritten: the Engine would decompress an archive within the archive with a program, and take attributes that no
// job may set.
func TestImportIsRewritten(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	send := func(body string) (int, string) {
		t.Helper()
		return r.do(http.MethodPost, "/images/create?fromSrc=-&repo=imported&tag=1", body, "Content-Type", "application/x-tar")
	}
	for name, body := range map[string]string{
		"xz in gzip":    zip(t, "\xfd7zXZ\x00 and so on"),
		"bzip2 in gzip": zip(t, "BZh91AY&SY"),
		"gzip in gzip":  zip(t, zip(t, tarOf(t, archiveFile{name: "a", content: "x"}))),
		"an archive whose first name is a compression's": tarOf(t, archiveFile{name: "BZh9", content: "x"}),
	} {
		if status, text := send(body); status < 400 {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "file", Typeflag: tar.TypeReg, Mode: 0o644, PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.user.kept": "y"}},
		{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if status, text := send(b.String()); status != http.StatusOK {
		t.Fatalf("an honest archive with a device: %d %s", status, text)
	}
	r.docker("create", "--name", "imported", "imported:1", "true")
	if files := r.docker("export", "imported"); !strings.Contains(files, "dev/null") {
		t.Error("the image lost its device")
	}
	var sent bytes.Buffer
	if err := rewriteTar(&sent, bytes.NewReader(b.Bytes()), true); err != nil || bytes.Contains(sent.Bytes(), []byte("trusted.")) || !bytes.Contains(sent.Bytes(), []byte("user.kept")) {
		t.Errorf("the Engine gets an attribute that only the machine's root may set: %v", err)
	}
}
