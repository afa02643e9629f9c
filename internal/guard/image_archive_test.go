package guard

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distribution/reference"

	"github.com/slipway-ci/slipway/internal/ledger"
	"github.com/slipway-ci/slipway/internal/tartest"
)

// TestSaveAndLoad carries images in archives, as pipelines do from job to job: by both clients, several at once, by ID, and
// compressed.
func TestSaveAndLoad(t *testing.T) {
	t.Parallel()
	registry := "registry.example.com"
	a := newRig(t, withRegistry(registry, registry+"/group/demo"))
	b := newRig(t, newScope, withRegistry(registry, registry+"/group/other"))
	dir := folder(t, "Dockerfile", "FROM "+alpine+"\nRUN echo saved >/made\n")
	a.docker("build", "-t", "made:1", "-t", "made:2", "-t", registry+"/group/demo/app:1", dir)
	id := strings.TrimSpace(a.docker("image", "inspect", "--format", "{{.Id}}", "made:1"))
	archive := filepath.Join(dir, "made.tar")
	a.docker("save", "-o", archive, "made", registry+"/group/demo/app:1", alpine)
	data, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	if i := bytes.Index(data, []byte(ledger.Host)); i >= 0 {
		t.Errorf("the archive has names of ours: %q", data[max(0, i-200):i+100])
	}
	for _, client := range clients(t) {
		out, err := b.runWith(client, "load", "-i", archive)
		if err != nil {
			t.Fatal(err, out)
		}
		wants(t, out, "Loaded image: made:1", "Loaded image: made:2", "Loaded image: "+registry+"/group/demo/app:1", "Loaded image: "+alpine)
	}
	wants(t, b.docker("run", "--rm", "made:2", "cat", "/made"), "saved")
	if status, text := a.do(http.MethodGet, "/images/"+id+"/get", nil); status != http.StatusOK || strings.Contains(text, `"RepoTags":["`) {
		t.Errorf("saving by ID answers %d, or has names", status)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(data)
	z.Close()
	if status, text := b.do(http.MethodPost, "/images/load?quiet=1", packed.String(), "Content-Type", "application/x-tar"); status != http.StatusOK {
		t.Errorf("a compressed archive: %d %s", status, text)
	}
	if status, text := b.do(http.MethodPost, "/images/load", "BZh91AY&SY", "Content-Type", "application/x-tar"); status != http.StatusForbidden || !strings.Contains(text, "[archive-compression]") {
		t.Errorf("another compression: %d %s", status, text)
	}
}

// TestSaveOfOthers asks for images that the job may not read.
func TestSaveOfOthers(t *testing.T) {
	t.Parallel()
	a, b := newRig(t), newRig(t, newScope)
	a.docker("build", "-t", "private:1", folder(t, "Dockerfile", "FROM "+alpine+"\nRUN echo "+a.policy.Token+" >/secret\n"))
	id := strings.TrimSpace(a.docker("image", "inspect", "--format", "{{.Id}}", "private:1"))
	for _, target := range []string{
		"/images/private:1/get", "/images/" + id + "/get", "/images/get?names=private:1", "/images/get?names=" + alpine + "&names=" + id,
		"/images/" + ledger.OwnName(a.policy.Scope, mustTagged(t, "private:1")) + "/get", "/images/" + a.holdName(id) + "/get", "/images/get",
	} {
		if status, text := b.do(http.MethodGet, target, nil); status != http.StatusNotFound && status != http.StatusBadRequest {
			t.Errorf("%s answers %d %.200s", target, status, text)
		}
	}
}

// mustTagged reads a name with a tag.
func mustTagged(t *testing.T, name string) reference.NamedTagged {
	t.Helper()
	tagged, ok := mustName(name).(reference.NamedTagged)
	if !ok {
		t.Fatalf("%s has no tag", name)
	}
	return tagged
}

// runWith runs one of the docker clients on the job's socket.
func (r *rig) runWith(client string, args ...string) (string, error) {
	r.t.Helper()
	cmd := exec.Command(client, append([]string{"--host", "unix://" + r.Socket()}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+r.t.TempDir())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// imageFiles are the files of a small image, and its ID.
func imageFiles(t *testing.T, content string) (layer, config tartest.File, id string) {
	t.Helper()
	layer = tartest.File{Name: "layer.tar", Content: tartest.Of(t, tartest.File{Name: "file", Content: content})}
	config = tartest.File{Name: "config.json", Content: `{"architecture":"amd64","os":"linux","config":{},"history":[{"created_by":"test"}],` +
		`"rootfs":{"type":"layers","diff_ids":["` + digestOf(layer.Content) + `"]}}`}
	return layer, config, digestOf(config.Content)
}

func manifestFile(names ...string) tartest.File {
	data, _ := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": names, "Layers": []string{"layer.tar"}}}) // strings
	return tartest.File{Name: "manifest.json", Content: string(data)}
}

// TestLoadAttacks loads archives that would name, replace or get images that are not the job's.
func TestLoadAttacks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	victim := newRig(t, newScope)
	before := r.host("image", "inspect", "--format", "{{.Id}}", alpine)
	layer, config, id := imageFiles(t, r.policy.Token)
	t.Cleanup(func() { _, _ = run(engineHost(), "", "rmi", "--force", id) })
	foreign := ledger.OwnName(victim.policy.Scope, mustTagged(t, "base:1"))
	load := func(files ...tartest.File) (int, string) {
		t.Helper()
		return r.do(http.MethodPost, "/images/load", tartest.Of(t, files...), "Content-Type", "application/x-tar")
	}
	for name, names := range map[string][]string{
		"no name": {"not a valid name!!"}, "a name of the Engine's": {"moby-dangling@" + id}, "an ID": {strings.TrimPrefix(id, "sha256:")}, "an empty one": {""},
	} {
		if status, text := load(layer, config, manifestFile(names...)); status < 400 {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	for name, files := range map[string][]tartest.File{
		"two manifests":           {layer, config, manifestFile("a:1"), manifestFile("b:1")},
		"one by another spelling": {layer, config, manifestFile("a:1"), {Name: "./x/../manifest.json", Content: manifestFile(alpine).Content}},
		"a manifest below a link": {layer, config, {Name: "x", Kind: tar.TypeSymlink, Link: "."}, {Name: "x/manifest.json", Content: manifestFile(alpine).Content}, manifestFile("a:1")},
		"a link for a manifest":   {layer, config, {Name: "m", Content: manifestFile(alpine).Content}, {Name: "manifest.json", Kind: tar.TypeSymlink, Link: "m"}},
		"a hard link":             {layer, config, manifestFile("a:1"), {Name: "y", Kind: tar.TypeLink, Link: "manifest.json"}},
		"a device":                {layer, config, manifestFile("a:1"), {Name: "y", Kind: tar.TypeBlock}},
		"a folder for a manifest": {layer, config, {Name: "manifest.json" + "/", Kind: tar.TypeDir}},
		"keys in two cases":       {layer, config, {Name: "manifest.json", Content: `[{"Config":"config.json","RepoTags":[],"repoTags":["` + alpine + `"],"Layers":["layer.tar"]}]`}},
		"no manifest":             {layer, config},
		"the oldest form":         {layer, config, {Name: "repositories", Content: `{"` + strings.Split(alpine, ":")[0] + `":{"1":"` + id + `"}}`}},
		"no layer":                {config, manifestFile("a:1")},
		"another layer":           {{Name: "layer.tar", Content: tartest.Of(t, tartest.File{Name: "other"})}, config, manifestFile("a:1")},
		"no configuration":        {layer, manifestFile("a:1")},
		"a whiteout":              {layer, config, manifestFile("a:1"), {Name: ".wh.manifest.json"}},
		"a link for the configuration's folder": {
			layer,
			{Name: "x/config.json", Content: config.Content},
			{Name: "y/config.json", Content: `{"rootfs":{"diff_ids":[]}}`},
			{Name: "x", Kind: tar.TypeSymlink, Link: "y"},
			{Name: "manifest.json", Content: `[{"Config":"x/config.json","Layers":["layer.tar"]}]`},
		},
		"a link for its folder's folder": {layer, {Name: "a/b/c", Content: "x"}, {Name: "a", Kind: tar.TypeSymlink, Link: "y"}, config, manifestFile("a:1")},
		"a file for a folder":            {layer, {Name: "a/b", Content: "x"}, {Name: "a", Content: "x"}, config, manifestFile("a:1")},
		"a folder for a file":            {layer, {Name: "a", Content: "x"}, {Name: "a/b", Content: "x"}, config, manifestFile("a:1")},
		"a folder for a link":            {layer, {Name: "a", Kind: tar.TypeSymlink, Link: "b"}, {Name: "a/", Kind: tar.TypeDir}, config, manifestFile("a:1")},
		"a long name":                    {layer, {Name: strings.Repeat("x/", 2100) + "x", Content: "x"}, config, manifestFile("a:1")},
		"a bad name beside a good one":   {layer, config, manifestFile("good:1", "not a valid name!!")},
		"a configuration elsewhere":      {layer, {Name: "manifest.json", Content: `[{"Config":"../../../etc/hostname","Layers":[]}]`}},
	} {
		if status, text := load(files...); status < 400 {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	if r.sees("good:1") || r.sees(id) {
		t.Error("an archive that was refused has left an image")
	}
	// Names of others become names of the job's own.
	for _, name := range []string{alpine, foreign, "docker.io/" + foreign} {
		if status, text := load(layer, config, manifestFile(name)); status != http.StatusOK {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
	if after := r.host("image", "inspect", "--format", "{{.Id}}", alpine); after != before {
		t.Errorf("the operator's image was replaced: %s, then %s", before, after)
	}
	if out, err := run(engineHost(), "", "image", "inspect", foreign); err == nil {
		t.Errorf("a name of another scope was written: %s", out)
	}
	if victim.sees("base:1") || victim.sees(id) {
		t.Error("another scope sees the image")
	}
	if got := strings.TrimSpace(r.docker("image", "inspect", "--format", "{{.Id}}", alpine)); got == strings.TrimSpace(before) {
		t.Errorf("the job's own image of that name is the operator's")
	}
}

// TestLoadNeedsTheLayers loads an image of another job's by its digests, without what they stand for.
func TestLoadNeedsTheLayers(t *testing.T) {
	t.Parallel()
	a, b := newRig(t), newRig(t, newScope)
	layer, config, id := imageFiles(t, "secret of "+a.policy.Token)
	whole := tartest.Of(t, layer, config, manifestFile("mine:1"))
	if status, text := a.do(http.MethodPost, "/images/load", whole, "Content-Type", "application/x-tar"); status != http.StatusOK {
		t.Fatal(status, text)
	}
	if status, text := b.do(http.MethodPost, "/images/load", tartest.Of(t, config, manifestFile("stolen:1")), "Content-Type", "application/x-tar"); status != http.StatusForbidden {
		t.Errorf("%d %s", status, text)
	}
	if b.sees("stolen:1") || b.sees(id) {
		t.Error("the image of another job was had by its digest")
	}
}

// TestImport makes images of archives of files: from the client's, never from an address.
func TestImport(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, client := range clients(t) {
		name := "imported:" + fmt.Sprint(len(client))
		id := strings.TrimSpace(r.docker("run", "-d", alpine, "sh", "-c", "echo kept >/kept"))
		r.docker("wait", id)
		file := filepath.Join(t.TempDir(), "files.tar")
		if out, err := r.runWith(client, "export", "-o", file, id); err != nil {
			t.Fatal(err, out)
		}
		out, err := r.runWith(client, "import", "--change", "ENV A=b", "--change", "LABEL slipway.guard=forged other=kept", "-m", "message", file, name)
		if err != nil || !strings.HasPrefix(out, "sha256:") {
			t.Fatal(err, out)
		}
		wants(t, r.docker("run", "--rm", name, "/bin/sh", "-c", "cat /kept; echo $A"), "kept\nb\n")
		lacks(t, r.docker("image", "inspect", name), "forged")
		if got := strings.TrimSpace(r.host("images", "-q", "imported")); got != "" {
			t.Errorf("the name is the Engine's own: %q", got)
		}
	}
	r.refused("image-import", "import", "http://127.0.0.1:1/x.tar", "x:1")
}
