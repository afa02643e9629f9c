package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/job"
)

// others are jobs that must not share what a job of group/demo stored.
func others(script ...string) map[string]*job.Spec {
	project := spec(script...)
	project.JobInfo.ProjectID, project.JobInfo.ProjectFullPath = 8, "group/other"
	protected, yes := spec(script...), true
	protected.GitInfo.Protected = &yes
	return map[string]*job.Spec{"another project": project, "a protected ref": protected}
}

// keeps checks that a folder of the container outlives the job, for the next one in its slot and for no other.
func (r *rig) keeps(dir string) {
	r.t.Helper()
	r.must(job.Success, spec("mkdir "+dir+"/kept && echo it >"+dir+"/kept/file"))
	wants(r.t, r.must(job.Success, spec("cat "+dir+"/kept/file")), "\nit\n")
	for name, s := range others("ls -A " + dir + "; test ! -e " + dir + "/kept") {
		if o, log := r.run(s); o.State != job.Success {
			r.t.Errorf("%s sees %s:\n%s", name, dir, log)
		}
	}
	// An ordinary user may write at the top, if nobody has before.
	r.must(job.Success, asUser(spec("echo mine >"+dir+"/of-1000"), "1000"))
}

func TestVolumesThatStay(t *testing.T) {
	t.Parallel()
	t.Run("cache volume", func(t *testing.T) {
		t.Parallel()
		newRig(t, dockerKeys(`volumes = ["/builds", "/data/store"]`)).keeps("/data/store")
	})
	t.Run("cache volume in a folder of the host", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		r := newRig(t, dockerKeys(fmt.Sprintf("volumes = [\"/builds\", \"/data/store\"]\n    cache_dir = %q", dir)))
		r.keeps("/data/store")
		if found, _ := filepath.Glob(dir + "/*/*/kept/file"); len(found) != 1 {
			t.Errorf("found %v below the host's folder", found)
		}
	})
	t.Run("cache_dir", func(t *testing.T) {
		t.Parallel()
		newRig(t).keeps("/cache")
	})
}

func TestVolumesThatEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, dockerKeys(`volumes = ["/builds", "/data"]
    disable_cache = true`))
	root := regexp.MustCompile(`volumes/([0-9a-f]{64})/_data /data`)
	for range 2 {
		log := r.must(job.Success, spec("test ! -e /data/kept; touch /data/kept", "cut -d' ' -f4,5 /proc/self/mountinfo"))
		m := root.FindStringSubmatch(log)
		if m == nil {
			t.Fatalf("/data is no anonymous volume:\n%s", log)
		}
		if _, err := r.engine.EnsureVolume(t.Context(), m[1], "", nil, map[string]string{"made": "again"}); err != nil {
			t.Fatal(err)
		}
		// Had the volume still been there, it would not have got our label.
		if left, err := r.engine.Volumes(t.Context(), "made=again"); err != nil || !named(left, m[1]) {
			t.Errorf("the job left its volume behind (%v)", err)
		}
		if err := r.engine.RemoveVolume(t.Context(), m[1]); err != nil {
			t.Error(err)
		}
	}
}

func TestBinds(t *testing.T) {
	t.Parallel()
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "file"), []byte("of the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, dockerKeys(fmt.Sprintf(`volumes = ["/builds", "/cache", "%[1]s:/ro:ro", "%[1]s:/rw"]`, host)))
	log := r.must(job.Success, spec("cat /ro/file", "if touch /ro/new; then exit 1; fi", "echo new >/rw/new; cat /ro/new"))
	wants(t, log, "\nof the host\n", "Read-only file system", "\nnew\n")
	if _, err := os.Stat(filepath.Join(host, "new")); err != nil {
		t.Error(err)
	}
}

// TestBuildsDirOfTheHost: with a bind over builds_dir, containers that a job starts find its files at the same place.
func TestBuildsDirOfTheHost(t *testing.T) {
	t.Parallel()
	host := t.TempDir()
	r := newRig(t, dockerKeys(fmt.Sprintf(`volumes = ["/cache", "%s:/builds"]`, host)))
	below := r.token.Short() + "/0/group/demo"
	log := r.must(job.Success, spec("pwd", "echo content >file", "ls -A /builds/"+r.token.Short()+"/0/group", showVars("CI_PROJECT_DIR", "RUNNER_TEMP_PROJECT_DIR")))
	wants(t, log, "\n/builds/"+below+"\n", "CI_PROJECT_DIR=[/builds/"+below+"]", "RUNNER_TEMP_PROJECT_DIR=[/builds/"+below+".tmp]", "\ndemo\ndemo.tmp\n")
	content, err := os.ReadFile(filepath.Join(host, below, "file"))
	if string(content) != "content\n" {
		t.Errorf("the host sees %q, %v", content, err)
	}
	left, err := os.ReadDir(filepath.Join(host, below+".tmp"))
	if err != nil || len(left) > 0 {
		t.Errorf("the temporary folder still has %v (%v)", left, err)
	}
}

func TestBadVolume(t *testing.T) {
	t.Parallel()
	r := newRig(t, dockerKeys(`volumes = ["/builds", "a:b:c:d"]`))
	log := r.fails(job.ConfigurationError, 0, spec("echo never"))
	wants(t, log, `volume "a:b:c:d" has too many colons`, "Hint: correct `volumes` in [runners.docker]")
}

// TestVolumeDriverOptions: those of the volumes that are made for jobs, which must not lead around the guard.
func TestVolumeDriverOptions(t *testing.T) {
	t.Parallel()
	const keys = `volumes = ["/builds", "/data"]
    volume_driver = "local"
    [runners.docker.volume_driver_ops]
    `
	r := newRig(t, dockerKeys(keys+`type = "tmpfs"
    device = "tmpfs"
    o = "size=1m"`))
	wants(t, r.must(job.Success, spec("grep ' /data ' /proc/mounts")), "tmpfs /data tmpfs rw,", "size=1024k")
	r = newRig(t, dockerKeys(keys+`type = "none"
    device = "/var/run"
    o = "bind"`))
	wants(t, r.fails(job.ConfigurationError, 0, spec("echo never")), "volume_driver_ops in [runners.docker] makes volumes of type \"none\"", "trust_config")
}

// TestTemporaryFolder: it is empty for each job, and gone from the host afterwards.
func TestTemporaryFolder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for range 2 {
		r.must(job.Success, spec("cd $RUNNER_TEMP_PROJECT_DIR", "ls -A", `test "$(ls -A)" = slipway.step_script`,
			"mkdir -p a/b; echo secret >a/b/.c; ln -s /etc l; chmod 0 a/b", "mkfifo p"))
		found, err := filepath.Glob(filepath.Join(r.stateDir(), "sources/workspaces/*/*/tmp"))
		if err != nil || len(found) != 1 {
			t.Fatalf("found %v (%v)", found, err)
		}
		if left, err := os.ReadDir(found[0]); err != nil || len(left) > 0 {
			t.Errorf("the temporary folder still has %v (%v)", left, err)
		}
	}
	if content, err := os.ReadFile("/etc/passwd"); err != nil || !strings.Contains(string(content), "root") {
		t.Error("the host's /etc is damaged", err)
	}
}
