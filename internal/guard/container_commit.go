package guard

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/moby/api/types/container"
)

// commit makes an image of an own container, under a name that the job may write.
func commit(c *call) error {
	rec, err := c.objects.container(c.query.Get("container"))
	if err != nil {
		return err
	}
	c.ref, c.id = c.query.Get("container"), rec.ID
	var body container.Config
	if err := c.decode(&body, createBody); err != nil {
		return err
	}
	body.Labels = c.imageLabels(body.Labels)
	changes, err := commitChanges(c.query["changes"])
	if err != nil {
		return err
	}
	if err := c.checkCommitSecrets(rec.ID, body, changes); err != nil {
		return err
	}
	q := c.pick("author", "comment", "pause")
	q.Set("container", rec.ID)
	if len(changes) > 0 {
		q["changes"] = changes
	}
	done := func(string) error { return nil }
	if ref := c.query.Get("repo"); ref != "" {
		if tag := c.query.Get("tag"); tag != "" {
			ref += ":" + tag
		}
		stored, d, err := c.writeName(c.ctx, ref)
		if err != nil {
			return err
		}
		repo, tag := splitTag(stored)
		done = d
		q.Set("repo", repo)
		q.Set("tag", tag)
	}
	var made struct{ ID string }
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), lifeTimeout)
	defer cancel()
	err = c.engine.callJSON(ctx, http.MethodPost, "/commit", q, body, &made)
	if err == nil {
		err = c.ownImage(ctx, made.ID)
	}
	if err := errors.Join(err, done(made.ID)); err != nil {
		return c.written(err)
	}
	c.json(http.StatusCreated, map[string]string{"Id": made.ID})
	return nil
}

// checkCommitSecrets looks at what a commit would put into an image: what the container was started with, and what the
// client changes of it.
func (c *call) checkCommitSecrets(id string, body container.Config, changes []string) error {
	if len(c.policy.Secrets) == 0 {
		return nil
	}
	const cure = "start the container without it, or commit it from one that had it in a file only"
	var of struct{ Config map[string]json.RawMessage }
	if err := c.engine.getJSON(c.ctx, "/containers/"+id+"/json", nil, &of); err != nil {
		return err
	}
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	var changed map[string]json.RawMessage
	if err := json.Unmarshal(data, &changed); err != nil {
		return err
	}
	for _, config := range []map[string]json.RawMessage{of.Config, changed} {
		if err := c.checkConfigSecrets("the container", config, cure); err != nil {
			return err
		}
	}
	return c.checkChangeSecrets(changes)
}

// checkChangeSecrets looks at the instructions of a commit or an import.
func (c *call) checkChangeSecrets(changes []string) error {
	for _, line := range changes {
		words := strings.Fields(line)
		if len(words) > 2 {
			words = words[:2]
		}
		name, _, _ := strings.Cut(strings.Join(words, " "), "=")
		if err := c.baked("--change "+name, line, "leave it out"); err != nil {
			return err
		}
	}
	return nil
}

// imageLabels are a client's labels for an image made of a container. Ours, which the container has, are emptied: what is
// made of the image later must not look like this job's. They cannot be left out.
func (g *Guard) imageLabels(client map[string]string) map[string]string {
	out := g.policy.labels(client)
	for k := range out {
		if _, ours := g.policy.Labels[k]; ours || ownLabel(k) {
			out[k] = ""
		}
	}
	return out
}

// commitInstructions are what the Engine takes in a commit's changes.
var commitInstructions = []string{"cmd", "entrypoint", "env", "expose", "healthcheck", "label", "onbuild", "stopsignal", "user", "volume", "workdir"}

// commitChanges reads the instructions of a commit, and writes them anew without our labels.
func commitChanges(lines []string) ([]string, error) {
	if len(lines) == 0 {
		return nil, nil
	}
	tree, err := parser.Parse(strings.NewReader(strings.Join(lines, "\n")))
	if err != nil {
		return nil, badRequest("slipway: the changes cannot be read: %v", err)
	}
	var out []string
	for _, node := range tree.AST.Children {
		name := strings.ToLower(node.Value)
		if !slices.Contains(commitInstructions, name) {
			return nil, badRequest("%s is not a valid change command", printable(node.Value))
		}
		line := node.Original
		if name == "label" {
			if line, err = cleanLabel(node); err != nil {
				return nil, err
			}
		}
		if len(node.Heredocs) > 0 {
			return nil, badRequest("slipway: changes cannot have here-documents")
		}
		if line != "" {
			out = append(out, line)
		}
	}
	return out, nil
}

// cleanLabel writes a LABEL instruction without our labels, "" if nothing is left.
func cleanLabel(node *parser.Node) (string, error) {
	parsed, err := instructions.ParseInstruction(node)
	if err != nil {
		return "", badRequest("slipway: the changes cannot be read: %v", err)
	}
	label, ok := parsed.(*instructions.LabelCommand)
	if !ok {
		return "", errors.New("LABEL is no label")
	}
	line := ""
	for _, kv := range label.Labels {
		key, value := unquoteWord(kv.Key), kv.Value
		if !ownLabel(key) {
			line += " " + kv.Key + "=" + value
		}
	}
	if line == "" {
		return "", nil
	}
	return "LABEL" + line, nil
}

// unquoteWord takes quotes and backslashes off a word, as the Engine's shell words do.
func unquoteWord(s string) string {
	var plain string
	if json.Unmarshal([]byte(s), &plain) == nil {
		return plain
	}
	return strings.NewReplacer(`"`, "", `'`, "", `\`, "").Replace(s)
}
