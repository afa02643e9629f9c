package guard

// TEMP: until images and net have landed.

import (
	"context"
	"errors"
)

func (c *call) tempImage(ctx context.Context, ref string) (image, error) {
	img, err := c.readImage(ctx, ref)
	if !errors.Is(err, errNotYet) {
		return img, err
	}
	var doc struct {
		ID     string `json:"Id"`
		Config struct{ Volumes map[string]struct{} }
	}
	if err := c.engine.getJSON(ctx, "/images/"+ref+"/json", nil, &doc); err != nil {
		return image{}, err
	}
	img = image{ID: doc.ID, Written: ref}
	for v := range doc.Config.Volumes {
		img.Volumes = append(img.Volumes, v)
	}
	return img, nil
}

func tempNetwork(id string, err error) (string, error) {
	if errors.Is(err, errNotYet) {
		return "none", nil
	}
	return id, err
}

func (c *call) tempVolume(ctx context.Context, name string) (string, error) {
	v, err := c.ensureVolume(ctx, name)
	if !errors.Is(err, errNotYet) {
		return v, err
	}
	if known, err := c.objects.volume(name); err == nil {
		return known, nil
	}
	body := map[string]any{"Name": c.policy.prefix() + name, "Labels": c.policy.labels(nil)}
	if err := c.engine.callJSON(ctx, "POST", "/volumes/create", nil, body, nil); err != nil {
		return "", err
	}
	c.objects.addVolume(c.policy.prefix() + name)
	return c.policy.prefix() + name, nil
}
