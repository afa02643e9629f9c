package source

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
)

// objects asks a mirror for commits through one git cat-file process.
type objects struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

type commit struct {
	oid     string // "" when the mirror does not have it
	parents []string
}

func (g *git) objects(ctx context.Context, gitDir string) (*objects, error) {
	cmd := g.command(ctx, gitCall{args: []string{"cat-file", "--batch"}, gitDir: gitDir, umask: 0o022})
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start git cat-file: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start git cat-file: %w", err)
	}
	g.started.Add(1)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start git cat-file: %w", err)
	}
	return &objects{cmd: cmd, in: in, out: bufio.NewReaderSize(out, 64<<10)}, nil
}

// close ends the process. It only reads, so there is nothing to wait for.
func (o *objects) close() {
	o.in.Close()
	killGroup(o.cmd)
	_ = o.cmd.Wait()
}

// commits looks up object names, all at once, and follows tags to their commit.
func (o *objects) commits(names []string) ([]commit, error) {
	written := make(chan error, 1)
	go func() {
		var b bytes.Buffer
		for _, n := range names {
			b.WriteString(n + "^{commit}\n")
		}
		_, err := o.in.Write(b.Bytes())
		written <- err
	}()
	out := make([]commit, len(names))
	for i := range names {
		c, err := o.next()
		if err != nil {
			return nil, fmt.Errorf("read commit %s: %w", names[i], err)
		}
		out[i] = c
	}
	if err := <-written; err != nil {
		return nil, fmt.Errorf("ask git cat-file: %w", err)
	}
	return out, nil
}

// next reads one answer: "<oid> commit <size>", the object and a line feed, or "<name> missing".
func (o *objects) next() (commit, error) {
	line, err := o.out.ReadString('\n')
	if err != nil {
		return commit{}, err
	}
	fields := strings.Fields(line)
	if len(fields) != 3 || !isOID(fields[0]) {
		return commit{}, nil
	}
	size, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil {
		return commit{}, fmt.Errorf("answer of git cat-file: %w", err)
	}
	c := commit{oid: fields[0]}
	body := bufio.NewReader(io.LimitReader(o.out, size))
	for fields[1] == "commit" {
		// "tree", then the parents, then all that does not matter, however long.
		head, err := body.ReadSlice('\n')
		parent, ok := strings.CutPrefix(strings.TrimSuffix(string(head), "\n"), "parent ")
		if ok && isOID(parent) {
			c.parents = append(c.parents, parent)
		} else if err != nil || !bytes.HasPrefix(head, []byte("tree ")) {
			break
		}
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return commit{}, err
	}
	_, err = o.out.Discard(1)
	return c, err
}
