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
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/slipway-ci/slipway/internal/tarball"
	"github.com/slipway-ci/slipway/internal/tartest"
)

func digestOf(content string) string {
	sum := sha256.Sum256([]byte(content))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// savedImage is an archive of an image of one layer for both of the Engine's stores, an OCI layout with docker save's manifest beside
// it, and the digest of its manifest.
func savedImage(t *testing.T, layer, config, name string) (archive, manifest string) {
	t.Helper()
	files := []tartest.File{{Name: "oci-layout", Content: `{"imageLayoutVersion": "1.0.0"}`}}
	blob := func(content string) string {
		path := "blobs/" + strings.Replace(digestOf(content), ":", "/", 1)
		files = append(files, tartest.File{Name: path, Content: content})
		return path
	}
	describe := func(kind, content string) string {
		return fmt.Sprintf(`"mediaType":"application/vnd.oci.image.%s","digest":%q,"size":%d`, kind, digestOf(content), len(content))
	}
	saved := fmt.Sprintf(`[{"Config":%q,"RepoTags":[%q],"Layers":[%q]}]`, blob(config), name, blob(layer))
	image := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{%s},"layers":[{%s}]}`,
		describe("config.v1+json", config), describe("layer.v1.tar", layer))
	blob(image)
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{%s,"annotations":{"io.containerd.image.name":"docker.io/library/%s"}}]}`, describe("manifest.v1+json", image), name)
	files = append(files, tartest.File{Name: "index.json", Content: index}, tartest.File{Name: "manifest.json", Content: saved})
	return tartest.Of(t, files...), digestOf(image)
}

// TestLoadsInTurn: a job that lets an archive wait keeps its own others waiting, not those of its neighbours.
func TestLoadsInTurn(t *testing.T) {
	t.Parallel()
	// An Engine of today would wait for the rest, too, before it takes another archive.
	a, b := newRig(t, func(o *Options) { o.patience = 2 * time.Second }), newRig(t, newScope)
	layer, config, _ := imageFiles(t, "of "+a.policy.Token)
	archive, _ := savedImage(t, layer.Content, config.Content, "mine:1")
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
	for pause, want := range map[time.Duration]int{2 * time.Second: http.StatusOK, 16 * time.Second: http.StatusRequestTimeout} {
		synctest.Test(t, func(t *testing.T) { // on the bubble's clock, over a connection that is in it
			client, server := net.Pipe()
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c := &call{Guard: &Guard{patience: time.Minute}, w: w, r: r}
				_, err := io.Copy(io.Discard, c.pacedBody())
				var a *apiError
				if errors.As(err, &a) {
					w.WriteHeader(a.Status)
				}
			})}
			l := &oneConn{conn: make(chan net.Conn, 1)}
			l.conn <- server
			go func() { _ = srv.Serve(l) }()
			body, out := io.Pipe()
			written := make(chan struct{})
			go func() {
				defer close(written)
				for range 10 {
					time.Sleep(pause)
					if _, err := out.Write([]byte("x")); err != nil {
						return
					}
				}
				out.Close()
			}()
			transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return client, nil }}
			resp, err := (&http.Client{Transport: transport}).Post("http://guard/", "", body)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("a pause of %s before each byte: %d, want %d", pause, resp.StatusCode, want)
			}
			body.Close()
			<-written
			transport.CloseIdleConnections()
			srv.Close()
			client.Close()
		})
	}
}

// oneConn is a listener that one connection comes to.
type oneConn struct {
	conn chan net.Conn
	once sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	c, ok := <-l.conn
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.conn) })
	return nil
}

func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{} }

// TestPacedAnswer: so it is with who takes an answer.
func TestPacedAnswer(t *testing.T) {
	t.Parallel()
	const size = 64 << 20 // more than lies between the two
	for _, c := range []struct {
		patience time.Duration
		piece    int // bytes that the client takes before it pauses
		cut      bool
	}{{300 * time.Millisecond, 1, true}, {patience, size / 8, false}} {
		failed := make(chan error, 1)
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			out := (&call{Guard: &Guard{patience: c.patience}, w: w, r: r}).pacedAnswer()
			var err error
			for n := 0; n < size && err == nil; n += tarball.BufferSize {
				_, err = out.Write(make([]byte, tarball.BufferSize))
			}
			failed <- err
		}))
		t.Cleanup(srv.Close)
		resp, err := http.Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		taken := int64(0)
		for err == nil && len(failed) == 0 {
			var n int64
			n, err = io.CopyN(io.Discard, resp.Body, int64(c.piece))
			taken += n
			time.Sleep(10 * time.Millisecond)
		}
		resp.Body.Close()
		if err := <-failed; c.cut != errors.Is(err, os.ErrDeadlineExceeded) || !c.cut && err != nil {
			t.Errorf("%d bytes at a time: %v after %d", c.piece, err, taken)
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
	c := &call{Guard: r.Guard, ctx: t.Context()}
	archived := []tarball.Image{{Layers: []string{digestOf("mine")}}}
	if images, err := c.loaded(t.Context(), archived, []string{doc.ID}); err == nil || len(images) != 0 {
		t.Errorf("%v %v", images, err)
	}
	archived[0].Layers = doc.RootFS.Layers
	if images, err := c.loaded(t.Context(), archived, []string{doc.ID}); err != nil || len(images) != 1 || images[0].ID != doc.ID {
		t.Errorf("%v %v", images, err)
	}
}

// TestLoadedIDs reads only what nobody but the Engine can have written.
func TestLoadedIDs(t *testing.T) {
	t.Parallel()
	id, other := digestOf("a"), digestOf("b")
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
	layer, config, _ := imageFiles(t, "secret of "+a.policy.Token)
	good, _ := savedImage(t, layer.Content, config.Content, "mine:1")
	if status, text := a.do(http.MethodPost, "/images/load", good, "Content-Type", "application/x-tar"); status != http.StatusOK {
		t.Fatal(status, text)
	}
	if !a.sees("mine:1") {
		t.Error("the image is not there under its name")
	}
	junk := tartest.Of(t, tartest.File{Name: "junk", Content: b.policy.Token})
	stolen := strings.Replace(config.Content, `"config":{}`, `"config":{"Labels":{"a":"b"}}`, 1)
	bad, manifest := savedImage(t, junk, stolen, "stolen:1")
	if status, text := b.do(http.MethodPost, "/images/load", bad, "Content-Type", "application/x-tar"); status != http.StatusForbidden || !strings.Contains(text, "[image-archive]") {
		t.Errorf("%d %s", status, text)
	}
	if b.sees("stolen:1") || b.sees(manifest) || b.sees(digestOf(stolen)) {
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
		"xz in gzip":    string(gzipped([]byte("\xfd7zXZ\x00 and so on"))),
		"bzip2 in gzip": string(gzipped([]byte("BZh91AY&SY"))),
		"gzip in gzip":  string(gzipped(gzipped([]byte(tartest.Of(t, tartest.File{Name: "a", Content: "x"}))))),
		"an archive whose first name is a compression's": tartest.Of(t, tartest.File{Name: "BZh9", Content: "x"}),
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
	if err := tarball.Rewrite(&sent, bytes.NewReader(b.Bytes()), true); err != nil || bytes.Contains(sent.Bytes(), []byte("trusted.")) || !bytes.Contains(sent.Bytes(), []byte("user.kept")) {
		t.Errorf("the Engine gets an attribute that only the machine's root may set: %v", err)
	}
}
