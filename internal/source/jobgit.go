package source

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// jobGit is the Git directory that a job sees. Two jobs of one commit in one workspace get the same bytes: a docker
// build that takes .git along stays cached. So there are no logs, no FETCH_HEAD, no names of pipelines and no tokens.
type jobGit struct {
	head    string            // commit, or "ref: ..." before the first checkout
	refs    map[string]string // name → object
	shallow []string          // sorted
	index   []byte            // of the work tree; nil = none
	format  string            // sha1 or sha256
	remote  string            // URL without credentials
	objects string            // path of the mirror's objects in the container
	umask   fs.FileMode
}

// files are the contents of the directory.
func (g *jobGit) files() map[string][]byte {
	files := map[string][]byte{
		"HEAD": []byte(g.head + "\n"),
		"config": []byte(coreConfig(g.format, false) +
			"[remote \"origin\"]\n\turl = " + quoteConfig(g.remote) + "\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"),
		"objects/info/alternates": []byte(g.objects + "\n"),
	}
	if len(g.refs) > 0 {
		var b strings.Builder
		b.WriteString("# pack-refs with: sorted \n")
		for _, r := range sortedRefs(g.refs) {
			fmt.Fprintf(&b, "%s %s\n", r[1], r[0])
		}
		files["packed-refs"] = []byte(b.String())
	}
	if len(g.shallow) > 0 {
		files["shallow"] = []byte(strings.Join(g.shallow, "\n") + "\n")
	}
	if g.index != nil {
		files["index"] = g.index
	}
	return files
}

// quoteConfig writes a value for a Git config file.
func quoteConfig(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`).Replace(s) + `"`
}

// write makes the directory in the project folder, which has none. The modes are set one by one: the umask of this
// process says nothing about what the job may do.
func (g *jobGit) write(project *os.File) error {
	root, err := os.OpenRoot(project.Name())
	if err != nil {
		return err
	}
	defer root.Close()
	for _, d := range []string{".git", ".git/objects", ".git/objects/info", ".git/objects/pack", ".git/refs", ".git/refs/heads", ".git/refs/tags"} {
		if err := root.Mkdir(d, 0o700); err != nil {
			return err
		}
		if err := root.Chmod(d, 0o777&^g.umask); err != nil {
			return err
		}
	}
	for name, data := range g.files() {
		if err := writeNew(root, ".git/"+name, data, 0o666&^g.umask); err != nil {
			return err
		}
	}
	return nil
}

func writeNew(root *os.Root, name string, data []byte, mode fs.FileMode) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chmod(mode), f.Close())
}
