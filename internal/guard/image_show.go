package guard

import (
	"net/http"
)

// imageInspect shows an image with the names that the job may know.
func imageInspect(c *call) error {
	img, doc, err := c.findImage(c.ctx, c.vars["name"])
	if err != nil {
		return err
	}
	query := c.pick("manifests", "platform")
	if !c.engine.version.atLeast("1.48") {
		query.Del("manifests")
	}
	if !c.engine.version.atLeast("1.49") {
		query.Del("platform")
	}
	names, err := c.namesOf(doc)
	if err != nil {
		return err
	}
	return c.forwardJSON(http.MethodGet, "/images/"+img.ID+"/json", query, nil, func(doc any) (any, error) {
		if m, ok := doc.(map[string]any); ok {
			m["RepoTags"], m["RepoDigests"] = names.tags, names.digests
			hideImageDetails(m)
			if config, ok := m["Config"].(map[string]any); ok {
				c.visibleLabels(config)
			}
		}
		return doc, nil
	})
}

// imageHistory shows how an image was made. Its steps bear the names of all images that end with them.
func imageHistory(c *call) error {
	img, err := c.readImage(c.ctx, c.vars["name"])
	if err != nil {
		return err
	}
	query := c.pick("platform")
	if !c.engine.version.atLeast("1.48") {
		query.Del("platform")
	}
	own, err := c.images.Names(c.policy.Scope)
	if err != nil {
		return err
	}
	return c.forwardJSON(http.MethodGet, "/images/"+img.ID+"/history", query, nil, func(doc any) (any, error) {
		steps, _ := doc.([]any)
		for _, s := range steps {
			step, ok := s.(map[string]any)
			if !ok {
				continue
			}
			id, _ := step["Id"].(string)
			names, err := c.namesWith(own, imageDoc{ID: id, RepoTags: stringsOf(step["Tags"])})
			if err != nil {
				return nil, err
			}
			step["Tags"] = nil
			if len(names.tags) > 0 {
				step["Tags"] = names.tags
			}
			if id != img.ID && !names.visible {
				step["Id"] = "<missing>" // what the Engine says of steps that it has no image of
			}
		}
		return doc, nil
	})
}

// imageAttestations shows the attestations of an image that the job may use.
func imageAttestations(c *call) error {
	if !c.engine.version.atLeast("1.55") {
		return &apiError{http.StatusNotFound, "page not found"}
	}
	img, err := c.readImage(c.ctx, c.vars["name"])
	if err != nil {
		return err
	}
	return c.forward(http.MethodGet, "/images/"+img.ID+"/attestations", c.pick("platform", "type", "statement"), nil)
}

// imageTag gives an image a name of the scope's own, or of the project's own path.
func imageTag(c *call) error {
	if err := c.noBody(); err != nil {
		return err
	}
	img, err := c.readImage(c.ctx, c.vars["name"])
	if err != nil {
		return err
	}
	ref, err := repoAndTag(c.query.Get("repo"), c.query.Get("tag"))
	if err != nil {
		return err
	}
	if err := c.nameImage(img.ID, ref); err != nil {
		return err
	}
	c.empty(http.StatusCreated)
	return nil
}

// nameImage gives an image that the job may use a name as the job writes it.
func (c *call) nameImage(id, ref string) error {
	ctx, cancel := detached(c.ctx)
	defer cancel()
	stored, done, err := c.writeName(ctx, ref)
	if err != nil {
		return err
	}
	if stored != "" {
		if err := (imageCalls{c.Guard}).Tag(ctx, id, stored); err != nil {
			_ = done("")
			return err
		}
	}
	return done(id)
}

// repoAndTag joins what the API takes apart.
func repoAndTag(repo, tag string) (string, error) {
	if repo == "" {
		return "", badRequest("invalid reference format")
	}
	if tag == "" {
		return repo, nil
	}
	// A tag given apart replaces one in the repository, says the Engine.
	named, err := parseName(repo)
	if err != nil {
		return "", err
	}
	return named.Name() + ":" + tag, nil
}
