package guard

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Secret is a value that must not become part of an image.
type Secret struct {
	Name  string // of the variable
	Value string
}

// shortestSecret is how long a value must be to be looked for: shorter ones are words that stand anywhere.
//
// GitLab: the shortest value that it masks.
const shortestSecret = 8

// proxyArgs are build arguments that BuildKit keeps out of images.
var proxyArgs = []string{"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"}

// secretIn is the name of the secret that a text holds, as it is or in the encodings that scripts give it, "" = none.
func (p Policy) secretIn(text string) string {
	if len(text) < shortestSecret {
		return ""
	}
	for _, s := range p.Secrets {
		value := strings.TrimSpace(s.Value)
		if len(value) < shortestSecret {
			continue
		}
		for _, form := range []string{value, url.QueryEscape(value), base64.StdEncoding.EncodeToString([]byte(value)), base64.URLEncoding.EncodeToString([]byte(value))} {
			if strings.Contains(text, form) {
				return s.Name
			}
		}
	}
	return ""
}

// baked tells of a secret that would be part of an image, or refuses it: whoever gets the image can read it. where says
// what it is in.
func (c *call) baked(where, text, cure string) error {
	name := c.policy.secretIn(text)
	if name == "" {
		return nil
	}
	d := deny("build-secret", strings.ReplaceAll(cure, theVariable, name), "%s holds the value of the masked variable %s: whoever gets the image can read it", printable(where), name)
	if c.policy.DenySecrets {
		return c.refuse(d)
	}
	c.once("secret "+where+" "+name, "slipway: "+d.What+"; "+d.Cure)
	return nil
}

// theVariable stands in a cure for the name of the variable.
const theVariable = "{}"

// secretCure is how a build step gets a secret that leaves no trace.
func secretCure(id string) string {
	return "give it as docker build --secret id=" + id + ",env=" + theVariable + ", and read it in RUN --mount=type=secret,id=" + id
}

// checkBuildSecrets looks at what a build would put into an image by its options.
func (b *buildRequest) checkBuildSecrets(labels map[string]string) error {
	for k, v := range b.args {
		if slices.Contains(proxyArgs, strings.ToLower(k)) {
			continue
		}
		if err := b.c.baked("--build-arg "+k, v, secretCure(printable(k))); err != nil {
			return err
		}
	}
	for k, v := range labels {
		if err := b.c.baked("--label "+k, v, "leave it out"); err != nil {
			return err
		}
	}
	return nil
}

// checkConfigSecrets looks at the configuration of an image, or of a container that is about to be one.
func (c *call) checkConfigSecrets(what string, config map[string]json.RawMessage, cure string) error {
	if len(c.policy.Secrets) == 0 {
		return nil
	}
	for field, data := range config {
		var list []string
		var pairs map[string]string
		switch {
		case field == "Env" && json.Unmarshal(data, &list) == nil:
			for _, e := range list {
				name, value, _ := strings.Cut(e, "=")
				if err := c.baked("ENV "+name+" of "+what, value, cure); err != nil {
					return err
				}
			}
		case field == "Labels" && json.Unmarshal(data, &pairs) == nil:
			for k, v := range pairs {
				if err := c.baked("LABEL "+k+" of "+what, v, cure); err != nil {
					return err
				}
			}
		default:
			var text strings.Builder
			collectStrings(data, &text)
			if err := c.baked(field+" of "+what, text.String(), cure); err != nil {
				return err
			}
		}
	}
	return nil
}

// collectStrings writes all strings of a JSON value.
func collectStrings(data json.RawMessage, out *strings.Builder) {
	var text string
	var list []json.RawMessage
	var object map[string]json.RawMessage
	switch {
	case json.Unmarshal(data, &text) == nil:
		out.WriteString(text + "\n")
	case json.Unmarshal(data, &list) == nil:
		for _, v := range list {
			collectStrings(v, out)
		}
	case json.Unmarshal(data, &object) == nil:
		for k, v := range object {
			out.WriteString(k + "\n")
			collectStrings(v, out)
		}
	}
}

// rebuild is the cure for what an image has in it already.
const rebuild = "build the image anew without it, and give the secret to what runs from the image, not to the image"

// checkPushedSecrets looks at an image that is about to leave the machine: its configuration, and how it says that its
// layers were made.
func (c *call) checkPushedSecrets(ctx context.Context, id, name string) error {
	if len(c.policy.Secrets) == 0 {
		return nil
	}
	var doc struct{ Config map[string]json.RawMessage }
	if err := c.engine.getJSON(ctx, "/images/"+id+"/json", nil, &doc); err != nil {
		return err
	}
	if err := c.checkConfigSecrets("the image "+name, doc.Config, rebuild); err != nil {
		return err
	}
	var history []struct{ CreatedBy, Comment string }
	if err := c.engine.callJSON(ctx, http.MethodGet, "/images/"+id+"/history", nil, nil, &history); err != nil {
		return err
	}
	for i, h := range history {
		// Counted from the base, as the Dockerfile's steps are.
		if err := c.baked(fmt.Sprintf("step %d in the history of the image %s", len(history)-i, name), h.CreatedBy+"\n"+h.Comment, rebuild); err != nil {
			return err
		}
	}
	return nil
}
