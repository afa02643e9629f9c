package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/job"
)

// within puts the config and all state of the rig where the Engine sees what is mounted.
func within(d *dockerd) option {
	return func(r *rig) {
		r.dir = d.path("rig")
		if err := os.Mkdir(r.dir, 0o755); err != nil {
			d.t.Fatal(err)
		}
	}
}

// TestMappedUsers: on an Engine that maps users, the job's files belong to its container's root, or with
// FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR to its user, as on others.
func TestMappedUsers(t *testing.T) {
	t.Parallel()
	d := newDockerd(t, remapped)
	e := d.withClient(d.engine())
	images := testImages()
	images["slipway.test/web:mapped"] = sharingServer()
	for _, name := range []string{gitImage, gitUserImage, "slipway.test/web:mapped"} {
		if err := load(e, name, images[name]); err != nil {
			t.Fatal(err)
		}
	}
	r := newRig(t, onEngine(d, e), ownSocket(d), within(d))
	p := r.repository("group/demo", sample)
	for _, c := range []struct{ image, user, umask, owner, mode, wrote string }{
		{gitImage, "", "false", "0:0", "666", "0:0"},
		{gitImage, "", "true", "0:0", "644", "0:0"},
		{gitUserImage, "", "true", "1000:0", "644", "1000:0"},
		{gitImage, "nobody", "true", "65534:65534", "644", "65534:65534"},
		{gitUserImage, "", "false", "0:0", "666", "1000:0"},
		{gitImage, "", "false", "0:0", "666", "0:0"},
	} {
		owns := "chmod 755 README; chmod 600 $SECRET"
		if c.umask == "false" && c.image == gitUserImage {
			owns = "true" // they are root's
		}
		s := withVariables(p.spec("main",
			"test ! -e node_modules/file || echo restored for $(stat -c %u:%g node_modules/file)",
			"echo owners: $(stat -c %u:%g . README dir/deep/run .git .git/index $RUNNER_TEMP_PROJECT_DIR $SECRET | sort -u), $(stat -c %a README).",
			`echo "status: $(git status --porcelain)."`,
			owns, "cat $SECRET; echo more >>README; echo new >dir/new; mkdir -p node_modules; echo x >node_modules/file; mkdir -p -m 700 closed/deep; echo x >closed/deep/file",
			"git add dir; git -c user.name=x -c user.email=x commit -qm mine", `echo KEPT=yes >"$GITLAB_ENV"`,
		), "FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR", c.umask)
		s.Variables = append(s.Variables, job.Variable{Key: "SECRET", Value: "in a file\n", File: true})
		s.Image.Name, s.Image.ExecutorOpts.Docker.User = c.image, job.User(c.user)
		s.Cache = []job.Cache{{Key: c.image + c.user + c.umask, Paths: []string{"node_modules"}}}
		s = withArtifacts(s, job.Artifact{Paths: []string{"closed"}})
		s = withHook(s, "pre", "cd $CI_PROJECT_DIR; mkdir -p -m 700 before/deep; touch README", strings.Replace(owns, "chmod 755 README", "chmod 700 .; chown -R $(id -u) .", 1), "cat $SECRET | sed 's/^/hook: /'")
		for round := range 2 {
			log := r.must(job.Success, withAfter(s, "echo kept: $KEPT"))
			wants(t, log, "\nhook: in a file\n", fmt.Sprintf("\nowners: %s, %s.\n", c.owner, c.mode), "\nstatus: .\n", "\nin a file\n", "\nkept: yes\n", "closed: found 3 files")
			if round > 0 {
				wants(t, log, "\nrestored for "+c.wrote+"\n")
			}
			lacks(t, log, "Permission denied", "not permitted")
		}
	}
	log := r.must(job.Success, withDocker("printf 'FROM "+alpine+"\\nRUN id >/who\\n' >Dockerfile", "docker build -t x .", "mkdir -p shared",
		"docker run --rm -v $PWD/shared:/p x cp /who /p/who", "cat shared/who; echo owner $(stat -c %u shared/who)"))
	wants(t, log, "\nuid=0(root)", "\nowner 0\n")
	withWeb := p.spec("main", got("readme"), "until cat answer 2>/dev/null; do sleep 0.1; done", "echo asked >question; rm -r of-the-service", got("question"))
	withWeb.Image.Name = gitImage
	log = r.must(job.Success, withService(withWeb, "slipway.test/web:mapped", "web"))
	wants(t, log, "\nreadme: hello\n", "\nanswer of \n", "\nquestion: asked\n")
	r.nothingIsMounted()
	out, _ := r.command("doctor", "--config", r.configPath()).CombinedOutput()
	wants(t, string(out), fmt.Sprintf("the Engine's data (%s/%d.%[2]d) has ", d.path("data"), firstUser), "the Engine sees "+r.stateDir())
	lacks(t, string(out), "error ")
}
