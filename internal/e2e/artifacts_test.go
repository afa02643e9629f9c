package e2e

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/job"
)

func withArtifacts(s *job.Spec, artifacts ...job.Artifact) *job.Spec {
	s.Artifacts = append(s.Artifacts, artifacts...)
	return s
}

// needs makes a job want the archive of another.
func needs(s *job.Spec, earlier *coordinator.Job) *job.Spec {
	d := job.Dependency{ID: earlier.ID(), Token: earlier.Token(), Name: "build"}
	for _, a := range earlier.Artifacts() {
		d.ArtifactsFile = job.ArtifactsFile{Filename: a.Filename, Size: int64(len(a.Content))}
	}
	s.Dependencies = append(s.Dependencies, d)
	return s
}

// unzipped is what an archive holds: names, "name -> target" for links, and contents.
func unzipped(t *testing.T, content []byte) map[string]string {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[f.Name] = string(data)
	}
	return out
}

// TestArtifacts takes files from one job to the next, with their modes and owners.
func TestArtifacts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	build := withArtifacts(withVariables(spec(
		"mkdir -p out/deep secret && echo built >out/deep/file && echo '#!/bin/sh' >out/tool && chmod 750 out/tool && ln -s deep/file out/link && echo x >secret/key && echo y >out/deep/skipped.o",
		"chown 1234:2345 out/deep/file"), "NAME", "app"),
		job.Artifact{Name: "$NAME-$CI_JOB_ID", Paths: []string{"out/", "missing/*"}, Exclude: []string{"**/*.o"}, Type: "archive", Format: "zip", ExpireIn: "1 day", When: "on_success"})
	j := r.Enqueue(build, "dockerd")
	o, log := r.end(j)
	if o.State != job.Success {
		t.Fatal(log)
	}
	wants(t, log, "Uploading artifacts for successful job", "out/: found 5 files and folders", "WARNING: missing/*: found nothing", "Uploaded app-")
	got := j.Artifacts()
	if len(got) != 1 || got[0].Filename != fmt.Sprintf("app-%d.zip", j.ID()) || got[0].Type != "archive" || got[0].Format != "zip" || got[0].ExpireIn != "1 day" {
		t.Fatalf("%+v", got)
	}
	if files := unzipped(t, got[0].Content); len(files) != 5 || files["out/deep/file"] != "built\n" || files["out/link"] != "deep/file" {
		t.Errorf("the archive holds %q", files)
	}
	log = r.must(job.Success, needs(ofProject(spec("cat out/link; stat -c '%a %u:%g' out/tool out/deep/file; test ! -e secret"), 8, "group/other"), j))
	wants(t, log, "Downloading artifacts of build", "Unpacked 5 files", "\nbuilt\n", "\n750 0:0\n", "1234:2345\n")
}

// TestArtifactsMetadata: an archive tells how its files were made, whatever the job had under that name.
func TestArtifactsMetadata(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const secret = "a-secret-of-the-job"
	s := withVariables(spec("mkdir out; echo built >out/file; ln -s file out/link; echo forged >app-metadata.json"),
		"RUNNER_GENERATE_ARTIFACTS_METADATA", "true", "PASSWORD", secret)
	j := r.enqueue(withArtifacts(s, job.Artifact{Name: "app", Paths: []string{"out/", "*.json"}, Type: "archive", Format: "zip", When: "on_success"}))
	if o, log := r.end(j); o.State != job.Success {
		t.Fatal(log)
	}
	files := unzipped(t, j.Artifacts()[0].Content)
	var got struct {
		Subject []struct {
			Name   string
			Digest map[string]string
		}
		Predicate struct {
			BuildDefinition struct{ ExternalParameters, InternalParameters map[string]string }
			RunDetails      struct{ Metadata struct{ InvocationID string } }
		}
	}
	text := files["app-metadata.json"]
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if s := got.Subject; len(s) != 1 || s[0].Name != "out/file" || s[0].Digest["sha256"] != fmt.Sprintf("%x", sha256.Sum256([]byte("built\n"))) {
		t.Errorf("%+v", s)
	}
	_, named := got.Predicate.BuildDefinition.ExternalParameters["PASSWORD"]
	if id := fmt.Sprint(j.ID()); !named || got.Predicate.RunDetails.Metadata.InvocationID != id || got.Predicate.BuildDefinition.InternalParameters["executor"] != "docker" {
		t.Errorf("%+v", got)
	}
	lacks(t, text, secret, j.Token().Reveal())
	wants(t, r.must(job.Success, needs(spec("cat out/file app-metadata.json"), j)), "\nbuilt\n{\n", `"_type": "https://in-toto.io/Statement/v0.1"`)
}

// TestReports sends the forms of reports.
func TestReports(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	j := r.Enqueue(withArtifacts(spec("echo '<a/>' >a.xml; echo '<b/>' >b.xml; echo V=1 >build.env; false"),
		job.Artifact{Name: "junit.xml", Paths: []string{"*.xml"}, Type: "junit", Format: "gzip", When: "always"},
		job.Artifact{Name: ".env", Paths: []string{"build.env"}, Type: "dotenv", Format: "raw", When: "always"},
		job.Artifact{Paths: []string{"a.xml"}, When: "on_failure"},
		job.Artifact{Name: "never", Paths: []string{"a.xml"}, When: "on_success"}), "dockerd")
	o, log := r.end(j)
	r.ended(o, log, job.ScriptFailure, 1)
	wants(t, log, "Uploading artifacts for failed job")
	got := map[string]coordinator.Artifact{}
	for _, a := range j.Artifacts() {
		got[a.Filename] = a
	}
	if len(got) != 3 || got["junit.xml.gz"].Type != "junit" || got["build.env"].Format != "raw" || string(got["build.env"].Content) != "V=1\n" || got["artifacts.zip"].Format != "zip" {
		t.Fatalf("%+v\n%s", got, log)
	}
	z, err := gzip.NewReader(bytes.NewReader(got["junit.xml.gz"].Content))
	if err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(z); err != nil || string(all) != "<a/>\n<b/>\n" {
		t.Errorf("%q %v", all, err)
	}
}

// TestUntrackedArtifacts sends what Git does not know, the ignored files too, as GitLab does.
func TestUntrackedArtifacts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	repo := r.repository("group/demo", map[string]string{"kept.txt": "1", ".gitignore": "ignored\n"})
	s := repo.spec("main", "echo new >new; echo x >ignored; echo changed >kept.txt; mkdir d; echo in >d/in; git add new 2>/dev/null || true")
	j := r.Enqueue(withArtifacts(s, job.Artifact{Untracked: true, Exclude: []string{"d/**"}}), "dockerd")
	if o, log := r.end(j); o.State != job.Success || len(j.Artifacts()) != 1 {
		t.Fatal(log)
	}
	if files := unzipped(t, j.Artifacts()[0].Content); len(files) != 2 || files["new"] != "new\n" || files["ignored"] != "x\n" {
		t.Errorf("the archive holds %q", files)
	}
}

// TestHostileArtifacts tries to get files of the machine into an archive, and to hold the runner up.
func TestHostileArtifacts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("the machine's secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	j := r.Enqueue(withArtifacts(spec(
		"mkdir out; ln -s "+secret+" out/file; ln -s "+filepath.Dir(secret)+" out/dir; ln -s /proc/1/root out/root; mkfifo out/pipe; mknod out/device c 1 5; ln -s /dev/sda dev; echo fine >out/fine",
		// What runs on after the script swaps a folder for a link.
		"mkdir swap; echo fine >swap/secret",
		"(while :; do mv swap s2; ln -s "+filepath.Dir(secret)+" swap; rm swap; mv s2 swap; done) >/dev/null 2>&1 &"),
		job.Artifact{Paths: []string{"out", "out/dir/**", "out/dir/secret", "out/root/etc/passwd", "../../../etc/passwd", "/etc/passwd", "dev", "swap/**", "swap"}}), "dockerd")
	o, log := r.end(j)
	if o.State != job.Success {
		t.Fatal(log)
	}
	wants(t, log, "WARNING: /etc/passwd: it is not in the project folder", "WARNING: ../../../etc/passwd: it is not in the project folder", "neither a file nor a folder")
	files := unzipped(t, j.Artifacts()[0].Content)
	for name, content := range files {
		if strings.Contains(content, "the machine's secret") || strings.Contains(content, "root:") {
			t.Errorf("%s holds %q", name, content)
		}
	}
	if files["out/fine"] != "fine\n" || files["out/file"] != secret {
		t.Errorf("the archive holds %q", files)
	}
}

// TestHostileArchive unpacks what an earlier job made up: its script fails, the machine is left alone.
func TestHostileArchive(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	evil := filepath.Join(t.TempDir(), "evil")
	w, err := z.Create("../../../../../../../../../.." + evil)
	if err == nil {
		_, err = io.WriteString(w, "evil")
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	earlier := r.Enqueue(withArtifacts(spec("echo x >x"), job.Artifact{Paths: []string{"x"}}), "dockerd")
	if o, log := r.end(earlier); o.State != job.Success {
		t.Fatal(log)
	}
	r.Inject(coordinator.Fault{Endpoint: coordinator.DownloadArtifacts, Status: http.StatusOK, Body: b.String()})
	log := r.fails(job.SystemFailure, 0, needs(spec("echo never"), earlier))
	wants(t, log, "which is not below the project folder")
	if _, err := os.Stat(evil); err == nil {
		t.Error("a file was written outside of the project")
	}
}

// TestArtifactFailures: what the server refuses fails the job, with the cure.
func TestArtifactFailures(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	upload := func() *job.Spec { return withArtifacts(spec("echo x >x"), job.Artifact{Paths: []string{"x"}}) }
	r.Inject(coordinator.Fault{Endpoint: coordinator.UploadArtifacts, Status: http.StatusRequestEntityTooLarge})
	wants(t, r.fails(job.ScriptFailure, 0, upload()), "the artifacts artifacts.zip were not uploaded", "Hint: they are larger than the server allows")
	r.Inject(coordinator.Fault{Endpoint: coordinator.UploadArtifacts, Status: http.StatusInternalServerError, Times: 3})
	wants(t, r.fails(job.SystemFailure, 0, upload()), "500 Internal Server Error")
	r.Inject(coordinator.Fault{Endpoint: coordinator.UploadArtifacts, Status: http.StatusInternalServerError, Times: 2})
	r.must(job.Success, upload())
	r.Inject(coordinator.Fault{Endpoint: coordinator.UploadArtifacts, Status: http.StatusServiceUnavailable, Times: 5})
	r.must(job.Success, upload())
	wants(t, r.must(job.Success, withArtifacts(spec("true"), job.Artifact{Paths: []string{"none"}})), "WARNING: there are no files to upload")

	earlier := r.Enqueue(upload(), "dockerd")
	if o, log := r.end(earlier); o.State != job.Success {
		t.Fatal(log)
	}
	r.Inject(coordinator.Fault{Endpoint: coordinator.DownloadArtifacts, Status: http.StatusNotFound})
	wants(t, r.fails(job.ScriptFailure, 0, needs(spec("echo never"), earlier)), "Hint: they may have expired or been erased: run build again")
	r.Inject(coordinator.Fault{Endpoint: coordinator.DownloadArtifacts, Status: http.StatusNotFound})
	log := r.must(job.Success, withVariables(needs(spec("cat x"), earlier), "ARTIFACT_DOWNLOAD_ATTEMPTS", "2", "FF_USE_EXPONENTIAL_BACKOFF_STAGE_RETRY", "false"))
	wants(t, log, "; trying again", "\nx\n")
}

// TestOrdinaryUserPacks: a runner that is not root packs what the job's root user keeps to itself, and unpacks for it.
func TestOrdinaryUserPacks(t *testing.T) {
	t.Parallel()
	r := newRig(t, ordinaryUser(t))
	s := withArtifacts(spec("mkdir -m 700 d; echo mine >d/f; chmod 600 d/f"), job.Artifact{Paths: []string{"d"}})
	s.Cache = []job.Cache{{Key: "k", Paths: []string{"d"}}}
	j := r.Enqueue(s, "dockerd")
	if o, log := r.end(j); o.State != job.Success || unzipped(t, j.Artifacts()[0].Content)["d/f"] != "mine\n" {
		t.Fatal(log)
	}
	next := needs(ofProject(spec("cat d/f; echo more >>d/f"), 8, "group/other"), j)
	wants(t, r.must(job.Success, next), "\nmine\n")
	again := withCache(spec("cat d/f; echo more >>d/f; cat d/f"), s.Cache...)
	wants(t, r.must(job.Success, again), "Restored the cache k", "\nmine\nmore\n")
}
