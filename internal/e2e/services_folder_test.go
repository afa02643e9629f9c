package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/slipway-ci/slipway/internal/coordinator"
	"github.com/slipway-ci/slipway/internal/demo"
	"github.com/slipway-ci/slipway/internal/job"
)

// sharingServer serves, on port 8080, the README of the project's folder when it is there, and then what the job writes into question.
// It leaves files that are its own.
func sharingServer() demo.Recipe {
	recipe := withEntrypoint(`mkdir -p /www; cd /www
(
	until cp $CI_PROJECT_DIR/README /www/readme; do sleep 0.1; done
	ls -A $(dirname $CI_PROJECT_DIR) >/www/beside
	umask 077; mkdir $CI_PROJECT_DIR/of-the-service; echo closed >$CI_PROJECT_DIR/of-the-service/file; chown -R 1234 $CI_PROJECT_DIR/of-the-service
	umask 022; echo "answer of $WHO" >$CI_PROJECT_DIR/answer
	until cp $CI_PROJECT_DIR/question /www/question; do sleep 0.1; done
) 2>/dev/null &
exec busybox httpd -f -p 8080 -h /www
`)
	recipe.Ports = []string{"8080/tcp"}
	return recipe
}

// needMounts skips a test where Slipway cannot show services the project's folder.
func needMounts(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root mounts")
	}
}

// got is a command that prints a page of a service as soon as it is there.
func got(page string) string {
	return "until wget -qO- http://web:8080/" + page + " 2>/dev/null >/tmp/page; do sleep 0.1; done; sed 's/^/" + page + ": /' /tmp/page"
}

// TestServicesSeeTheProject: services see the folder that their job has, from when the sources are there, and nobody else's.
func TestServicesSeeTheProject(t *testing.T) {
	t.Parallel()
	needMounts(t)
	r := newRig(t, withSocket())
	image := r.image(sharingServer())
	share := func(p *repository, who string) *job.Spec {
		s := p.spec("main", "test ! -e of-the-service/old", got("readme"), "until cat answer 2>/dev/null; do sleep 0.1; done",
			"echo asked by $WHO >question.new; mv question.new question", got("question"), got("beside"), "touch of-the-service/old; echo at the end")
		s.Variables = append(s.Variables, job.Variable{Key: "SECRET", Value: "a secret", File: true}, job.Variable{Key: "WHO", Value: who, Public: true})
		return withService(s, image, "web")
	}
	one := r.repository("group/demo", map[string]string{"README": "of one\n"})
	two := r.repository("group/other", map[string]string{"README": "of two\n"})
	for range 2 { // the second time in a folder that was used before
		_, outcomes, logs := r.batch(map[string]*job.Spec{"one": share(one, "one"), "two": share(two, "two")})
		for who, log := range logs {
			if outcomes[who].State != job.Success {
				t.Fatalf("job ended as %+v:\n%s", outcomes[who], log)
			}
			wants(t, log, "\nreadme: of "+who+"\n", "\nanswer of "+who+"\n", "\nquestion: asked by "+who+"\n", "\nat the end\n",
				"\nbeside: "+map[string]string{"one": "demo", "two": "other"}[who]+"\n")
			lacks(t, log, "project's folder")
			if n := strings.Count(log, "\nbeside: "); n != 1 {
				t.Errorf("the service has %d folders:\n%s", n, log)
			}
		}
		r.cleanAfter()
	}
	// What a service left goes as what a job left.
	clean := one.spec("main", "test ! -e of-the-service", `echo "status: $(git status --porcelain --ignored)."`)
	wants(t, r.must(job.Success, clean), "\nstatus: .\n")
}

// TestServiceThatHasNoPlaceForTheProject: a volume below the project's folder comes first, because it was there before.
func TestServiceThatHasNoPlaceForTheProject(t *testing.T) {
	t.Parallel()
	needMounts(t)
	r := newRig(t, dockerKeys(`volumes = ["/cache", "/builds", "/builds/group/demo/vendor"]`))
	web := r.image(webServer())
	log := r.must(job.Success, withService(spec("wget -qO- http://web:8080/index"), web, "web", "WHO", "all the same"))
	wants(t, log, "WARNING: service "+web+" does not see the project's folder: ", "I am all the same")
	r.nothingIsMounted()
	// A mistake of the service's own is not told as if it were the folder's.
	s := withService(spec("true"), alpine, "x")
	s.Services[0].Entrypoint = []string{"/builds/group/demo/no-such-program"}
	lacks(t, r.fails(job.ConfigurationError, 0, s), "project's folder")
}

// TestServicesWhereMountsAreNotSeen: services start, too, where the Engine does not see what Slipway mounts.
func TestServicesWhereMountsAreNotSeen(t *testing.T) {
	t.Parallel()
	dir := mountedDir(t, unix.MS_PRIVATE)
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip(err)
	}
	r := newRig(t, func(r *rig) {
		r.dir = dir
		r.command = func(args ...string) *exec.Cmd {
			cmd := slipway(args...)
			cmd.Args = append([]string{"unshare", "--mount", "--propagation", "private", cmd.Path}, args...)
			cmd.Path = unshare
			return cmd
		}
	})
	web := r.image(webServer())
	log := r.must(job.Success, withService(spec("wget -qO- http://web:8080/index"), web, "web", "WHO", "all the same"))
	wants(t, log, "WARNING: service "+web+" does not see the project's folder: ", "I am all the same")
	if left, err := os.ReadDir(filepath.Join(r.stateDir(), "services")); err != nil || len(left) > 0 {
		t.Errorf("left are %v (%v)", left, err)
	}
}

// TestKilledWithTheProjectShown: the next start takes away what services saw a project through, and leaves the project alone.
func TestKilledWithTheProjectShown(t *testing.T) {
	t.Parallel()
	needMounts(t)
	r := newRig(t, func(r *rig) { // whose folder lies on another disk, say
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(r.dir, link); err != nil {
			t.Fatal(err)
		}
		r.dir = link
	})
	j := r.killedIn(withService(spec("echo kept >file", got("file")), r.image(withEntrypoint(`mkdir /www; cd /www
until cp $CI_PROJECT_DIR/file /www/; do sleep 0.1; done 2>/dev/null
exec busybox httpd -f -p 8080 -h /www
`)), "web"))
	shown := func() int {
		files, _ := filepath.Glob(filepath.Join(r.stateDir(), "services", "*", "file"))
		return len(files)
	}
	if shown() != 1 {
		t.Fatalf("the project is shown at %d places", shown())
	}
	r.start()
	r.interrupted(j)
	r.nothingIsMounted()
	if left, err := os.ReadDir(filepath.Join(r.stateDir(), "services")); err != nil || len(left) > 0 {
		t.Errorf("left are %v (%v)", left, err)
	}
	if b, err := os.ReadFile(filepath.Join(r.workspace(0), "file")); err != nil || string(b) != "kept\n" {
		t.Errorf("the project's file is %q (%v)", b, err)
	}
}

// hold lets no request to the rig's Git server go on before release is called.
func (r *rig) hold() (held *atomic.Int64, release func()) {
	n := &atomic.Int64{}
	stop, letGo := r.gate()
	remove := r.Inject(coordinator.Fault{Endpoint: coordinator.Git, Match: func(*http.Request) bool {
		n.Add(1)
		<-stop
		return false
	}})
	return n, func() { remove(); letGo() }
}

// TestHostileService: a service cannot change what the host's Git works in while it does, nor lead what the host does in
// the folder after that out of it.
func TestHostileService(t *testing.T) {
	t.Parallel()
	needMounts(t)
	r := newRig(t)
	c := newCanary(t)
	p := r.repository("group/demo", sample)
	look := func() *job.Spec {
		return p.spec("main", listing, `echo "status: $(git status --porcelain --ignored)."`, "test ! -e /planted")
	}
	kept := job.Cache{Key: "kept", Paths: []string{"kept/"}, Policy: "pull-push", When: "always"}
	withKept := func(s *job.Spec) *job.Spec {
		s.Cache = []job.Cache{kept}
		return withArtifacts(s, job.Artifact{Paths: []string{"kept/", "nested/"}, When: "always"})
	}
	r.must(job.Success, withKept(p.spec("main", "mkdir -p kept/deep nested; for i in $(seq 500); do echo x >kept/deep/file$i; done; echo x >kept/file; echo x >nested/file")))
	clean := r.must(job.Success, look())
	before := c.seen(t)

	// As soon as it can it plants what TestHostileWorkspace does, and swaps folders for links to where nothing is to be written.
	image := r.image(withEntrypoint(strings.ReplaceAll(`
found() { ls -A $CI_PROJECT_DIR 2>&1; }
until test -e $CI_PROJECT_DIR/new; do
	(`+plant+`) 2>/dev/null
	(cd $CI_PROJECT_DIR; mount -o remount,rw . || mount -t tmpfs none . || umount .; mkdir .git; ln -s CANARY README.new; echo x >x; chmod 777 .; chown 1 .) 2>/dev/null
	(cd $CI_PROJECT_DIR/..; mv demo elsewhere; rmdir demo; ln -s CANARY demo) 2>/dev/null
	echo "try: $(found)"
done
echo fetched
(while :; do
	for d in kept/deep kept; do rm -rf $CI_PROJECT_DIR/$d; ln -s CANARY $CI_PROJECT_DIR/$d; rm $CI_PROJECT_DIR/$d; mkdir -p $CI_PROJECT_DIR/$d; done
done) 2>/dev/null &
(`+plant+`rm -rf .git/*; repository .git; mkfifo .git/index; touch .git/planted
) 2>/dev/null
sleep 300
`, "CANARY", c.dir)))
	held, release := r.hold()
	hostile := withService(p.spec("main", "until test -e .git/planted; do sleep 0.1; done; echo planted", "test ! -e /planted"), image, "hostile")
	p.commitFor(hostile, map[string]string{"new": "in the fetch\n"})
	j := r.enqueue(withKept(hostile))
	service := ""
	r.eventually("the service has begun", func() bool {
		for _, info := range r.containers(j) {
			if info.Labels["com.gitlab.gitlab-runner.type"] == "service" {
				service = info.ID
			}
		}
		return service != ""
	})
	tries := ""
	r.eventually("the service has tried", func() bool {
		tries, _ = r.engine.LogText(t.Context(), service) // the Engine may be making it still
		return strings.Contains(tries, "fetched") || strings.Count(tries, "try: ") > 2 && held.Load() > 0
	})
	lacks(t, string(j.Trace()), "planted")
	if n := strings.Count(tries, "try: \n"); n != strings.Count(tries, "try: ") || n != strings.Count(tries, "\n") {
		t.Errorf("the service finds or does something while the host's Git is at work:\n%s", tries)
	}
	files, err := os.ReadDir(r.workspace(0))
	if err != nil || len(files) < 5 {
		t.Errorf("the folder is not as the last job left it: %v (%v)", files, err)
	}
	release()
	_, log := r.end(j)
	wants(t, log, "\nplanted\n")
	lacks(t, log, "canary")
	if diff := cmp.Diff(before, c.seen(t)); diff != "" {
		t.Fatalf("the host was touched:\n%s", diff)
	}
	p.git(p.work, "reset", "-q", "--hard", "HEAD~1")
	p.git(p.work, "push", "-q", "--force", p.RepoDir, "main")
	log = r.must(job.Success, look())
	wants(t, log, "\nstatus: .\n")
	sameListing(t, clean, log, false)
	if diff := cmp.Diff(before, c.seen(t)); diff != "" {
		t.Fatalf("the host was touched afterwards:\n%s", diff)
	}
	p.git("/", "--git-dir", r.mirror(), "fsck", "--full", "--strict")
	r.nothingIsMounted()
}
