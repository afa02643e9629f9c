package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/job"
)

// canary is a folder of the host that no job has anything to do with.
type canary struct{ dir string }

func newCanary(t *testing.T) canary {
	t.Helper()
	c := canary{t.TempDir()}
	for _, name := range []string{"file", "deep/run", "config", "HEAD"} { // also what a checkout would write
		path := filepath.Join(c.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("canary"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// seen is all that could have changed on the host.
func (c canary) seen(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	add := func(path string) {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		content := ""
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			content = fmt.Sprintf("%x", sha256.Sum256(data))
		}
		out[path] = info.Mode().String() + " " + content
	}
	for _, path := range []string{"/", "/etc", "/etc/passwd", "/etc/hostname"} {
		add(path)
	}
	err := filepath.WalkDir(c.dir, func(path string, _ os.DirEntry, err error) error {
		add(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// plant is what a hostile job does with its workspace. Every program that it plants leaves a file at CANARY, should the
// host run it, and in /planted, should a job.
const plant = `
run='touch CANARY/executed /planted $CI_PROJECT_DIR/executed'
repository() {
	mkdir -p $1/hooks $1/objects $1/refs
	echo 'ref: refs/heads/main' >$1/HEAD
	printf '[core]\n\trepositoryformatversion = 0\n\tfsmonitor = "%s; false"\n\thooksPath = hooks\n\tsshCommand = %s\n\tpager = %s\n' "$run" "$run" "$run" >$1/config
	printf '[filter "evil"]\n\tsmudge = "%s; cat"\n\tclean = "%s; cat"\n\tprocess = %s\n\trequired\n[diff]\n\texternal = %s\n' "$run" "$run" "$run" "$run" >>$1/config
	printf '[alias]\n\tstatus = "!%s"\n\tclean = "!%s"\n\tread-tree = "!%s"\n[include]\n\tpath = /dev/zero\n[credential]\n\thelper = "!%s"\n' "$run" "$run" "$run" "$run" >>$1/config
	for hook in post-checkout post-index-change reference-transaction pre-auto-gc fsmonitor-watchman; do
		printf '#!/bin/sh\n%s\n' "$run" >$1/hooks/$hook; chmod +x $1/hooks/$hook
	done
}
cd $CI_PROJECT_DIR
mkdir -p nested dir
repository nested/.git; repository dir/.git
echo 'gitdir: ../dir/.git' >nested/.gitmodules
for f in .gitattributes nested/.gitattributes; do echo '* filter=evil diff=evil ident eol=crlf' >$f; done
echo '*' >nested/.gitignore
ln -s /etc etc; ln -s /etc/passwd passwd; ln -s CANARY outside; ln -s CANARY/file outside-file; ln -s / root
rm README; ln -s /etc/passwd README
rm link; mkfifo link
rm .gitignore; mknod .gitignore c 1 5
rm -r dir/deep; ln -s CANARY/deep dir/deep
mkfifo pipe; mknod disk b 7 0; mkfifo nested/.git/index
echo x >"$(printf 'two\nlines')"; echo x >"$(printf '\377\033[2J')"; echo x >-rf; echo x >'*'; echo x >' '
mkdir -p closed/in/side; echo x >closed/in/side/file; chown -R 1234:4321 closed; chmod 000 closed/in/side closed/in closed
touch of-nobody; chown 65534:65534 of-nobody dir; chmod 7777 of-nobody; chmod 000 dir
(cd nested; i=0; while [ $i -lt 700 ]; do mkdir d; cd -P d; i=$((i+1)); done) 2>/dev/null
long=$(printf '%0200d' 0); (i=0; while [ $i -lt 70 ]; do mkdir $long; cd -P $long; i=$((i+1)); done) 2>/dev/null
mkdir keep; echo x >keep/file; repository keep/.git; ln -s CANARY keep/outside
`

// plantGit is what becomes of the workspace's own .git, and the GIT_CLEAN_FLAGS of the job that comes next: with flags
// of its own, that job has Git look at what was left.
var plantGit = []struct{ name, script, flags string }{
	{"settings", `rm -rf .git/*; repository .git; mkfifo .git/index`, ""},
	{"link", `rm -rf .git; ln -s CANARY .git`, ""},
	{"settings and flags", `rm -rf .git/*; repository .git; rm .git/HEAD; mkfifo .git/HEAD`, "-ffdx -e keep"},
	{"link to etc", `rm -rf .git; ln -s /etc .git`, "none"},
	{"file", `rm -rf .git; echo 'gitdir: CANARY' >.git`, "-fd"},
	{"pipe", `rm -rf .git; mkfifo .git`, "-ffdX"},
}

// plantTemp fills the temporary folder, into which the host writes while the job runs and after it.
const plantTemp = `
cd $RUNNER_TEMP_PROJECT_DIR
rm -rf ..?* .[!.]* *
for name in slipway.step_script slipway.after_script SECRET gitlab_runner_env; do ln -s CANARY/file $name; done
mkdir -p deep/in; chmod 000 deep/in deep; chown 1234 deep; mkfifo pipe; ln -s CANARY dir
`

// TestHostileWorkspace: whatever a job leaves in its workspace, the next one starts clean, and nothing of it reaches
// the host.
func TestHostileWorkspace(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := newCanary(t)
	p := r.repository("group/demo", sample)
	withSecret := func(s *job.Spec) *job.Spec {
		s.Variables = append(s.Variables, job.Variable{Key: "SECRET", Value: "a secret", File: true})
		return s
	}
	look := func() *job.Spec {
		return withSecret(p.spec("main", listing, "ls -A $RUNNER_TEMP_PROJECT_DIR | sed 's/^/temp: /'", "cat $SECRET",
			`echo "status: $(git status --porcelain --ignored)."`, "test ! -e /planted"))
	}
	clean := r.must(job.Success, look())
	before := c.seen(t)
	unharmed := func(when string) {
		t.Helper()
		if diff := cmp.Diff(before, c.seen(t)); diff != "" {
			t.Fatalf("%s: the host was touched:\n%s", when, diff)
		}
	}
	for _, g := range plantGit {
		script := strings.ReplaceAll(plant+g.script+plantTemp+"echo planted", "CANARY", c.dir)
		log := r.must(job.Success, withAfter(withSecret(p.spec("main", script)), "echo after all"))
		wants(t, log, "\nplanted\n", "\nafter all\n")
		unharmed(g.name + ": after the hostile job")
		if g.flags != "" {
			s := p.spec("main", "test ! -e /planted", "cat README dir/file; sh dir/deep/run", "git log -1", "test ! -e /planted")
			wants(t, r.must(job.Success, withVariables(s, "GIT_CLEAN_FLAGS", g.flags)), "\nhello\none\nrun\n")
			unharmed(g.name + ": after " + g.flags)
		}
		log = r.must(job.Success, look())
		wants(t, log, "\nstatus: .\n", "a secret")
		lacks(t, log, "temp: dir", "temp: pipe", "temp: deep")
		sameListing(t, clean, log, false)
		unharmed(g.name + ": after the next job")
	}
	p.git("/", "--git-dir", r.mirror(), "fsck", "--full", "--strict")
}

// mirror is the only mirror that there is.
func (r *rig) mirror() string {
	r.t.Helper()
	found, err := filepath.Glob(filepath.Join(r.stateDir(), "sources", "mirrors", "*"))
	if err != nil || len(found) != 1 {
		r.t.Fatalf("mirrors: %v, %v", found, err)
	}
	return found[0]
}

// TestMirrorIsReadOnly: no job can change what the next jobs of its project get.
func TestMirrorIsReadOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.repository("group/demo", sample)
	log := r.must(job.Success, p.spec("main",
		`dir=$(cat .git/objects/info/alternates); id -u; find $dir -name '*.pack'`,
		`try() { if "$@"; then echo "could $*"; else echo refused; fi 2>&1; }`,
		"set -- $dir/pack/*.pack; try test -e $1; try rm -f $1; try chmod 777 $dir; try mv $1 $1.old; try ln $1 /tmp/pack",
		"try touch $dir/new; try mkdir $dir/new; try dd if=/dev/zero of=$1 count=1 conv=notrunc; try mount -o remount,rw $dir; try umount $dir",
		"try mknod $dir/new c 1 3; try chown 1 $1; rm -rf $dir || echo refused",
		"git fsck", "git gc -q; git repack -a -d -q; git prune; git log --format='commit of %an'",
	))
	wants(t, log, "\ncould test -e ", "\ncommit of a\n")
	if n := strings.Count(log, "\ncould "); n != 1 {
		t.Errorf("the job changed its mirror:\n%s", log)
	}
	p.git("/", "--git-dir", r.mirror(), "fsck", "--full", "--strict")
	wants(t, r.must(job.Success, withVariables(p.spec("main", "cat README"), "GIT_STRATEGY", "clone")), "\nhello\n")
}
