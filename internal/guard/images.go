package guard

import (
	"context"
	"net/http"
	"net/url"

	"github.com/slipway-ci/slipway/internal/ledger"
)

// image is one image of the Engine that the job may use.
type image struct {
	ID      string   // of the Engine
	Stored  string   // the Engine's name for it, "" if it was named by ID
	Written string   // the name as the job knows it
	Volumes []string // that its configuration declares
}

// imageDoc is what the guard reads of the Engine's description of an image.
type imageDoc struct {
	ID                        string `json:"Id"`
	RepoTags, RepoDigests     []string
	Os, Architecture, Variant string
	Config                    struct {
		Volumes      map[string]struct{}
		Env, OnBuild []string
	}
	RootFS struct{ Layers []string } // digests, unpacked
}

func (d imageDoc) image() ledger.Image {
	return ledger.Image{ID: d.ID, RepoTags: d.RepoTags, RepoDigests: d.RepoDigests}
}

// inspectImage asks the Engine. found is false if it has no such image.
func (g *Guard) inspectImage(ctx context.Context, ref string) (doc imageDoc, found bool, err error) {
	err = g.engine.getJSON(ctx, "/images/"+ref+"/json", nil, &doc)
	if isStatus(err, http.StatusNotFound) {
		return doc, false, nil
	}
	return doc, err == nil, err
}

// imageCalls are the Engine's calls that the ledger makes.
type imageCalls struct{ g *Guard }

// Image implements ledger.Engine.
func (i imageCalls) Image(ctx context.Context, ref string) (ledger.Image, error) {
	doc, found, err := i.g.inspectImage(ctx, ref)
	if err != nil || !found {
		return ledger.Image{}, err
	}
	return doc.image(), nil
}

// Tag implements ledger.Engine.
func (i imageCalls) Tag(ctx context.Context, id, name string) error {
	repo, tag := splitTag(name)
	return i.g.images.Naming(ctx, i, name, id, func() error {
		return i.g.engine.callJSON(ctx, http.MethodPost, "/images/"+id+"/tag", url.Values{"repo": {repo}, "tag": {tag}}, nil, nil)
	})
}

// Untag implements ledger.Engine.
func (i imageCalls) Untag(ctx context.Context, name string) error {
	// Forced, because a container may use the image; its parents are left alone, because they may be another job's.
	err := i.g.images.Naming(ctx, i, name, "", func() error {
		return i.g.engine.callJSON(ctx, http.MethodDelete, "/images/"+name, url.Values{"force": {"1"}, "noprune": {"1"}}, nil, nil)
	})
	switch {
	case isStatus(err, http.StatusNotFound):
		return nil
	case isStatus(err, http.StatusConflict):
		// Other images are made of it, so it stays; its name may be gone all the same.
		if _, found, lookErr := i.g.inspectImage(ctx, name); lookErr == nil && !found {
			return nil
		}
	}
	return err
}

// lookingCalls keep what the Engine said last of an image.
type lookingCalls struct {
	imageCalls
	doc imageDoc
}

// Image implements ledger.Engine.
func (i *lookingCalls) Image(ctx context.Context, ref string) (ledger.Image, error) {
	var found bool
	var err error
	if i.doc, found, err = i.g.inspectImage(ctx, ref); err != nil || !found {
		return ledger.Image{}, err
	}
	return i.doc.image(), nil
}
