package gitlab

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/internal/job"
)

// Registration is what the server knows a runner by.
type Registration struct {
	ID        int64      `json:"id"` // 0 when a server is too old to tell
	Token     string     `json:"token"`
	ExpiresAt *time.Time `json:"token_expires_at"` // nil = never
}

// RegisterOptions are the settings of a new runner that the server keeps.
type RegisterOptions struct {
	Description     string
	MaintenanceNote string
	Tags            []string
	RunUntagged     bool
	Locked          bool
	AccessLevel     string // not_protected or ref_protected; "" = the server's default
	MaximumTimeout  int    // seconds; 0 = none
	Paused          bool
}

type registerRequest struct {
	Description     string `json:"description,omitempty"`
	MaintenanceNote string `json:"maintenance_note,omitempty"`
	TagList         string `json:"tag_list,omitempty"`
	RunUntagged     bool   `json:"run_untagged"`
	Locked          bool   `json:"locked"`
	AccessLevel     string `json:"access_level,omitempty"`
	MaximumTimeout  int    `json:"maximum_timeout,omitempty"`
	Paused          bool   `json:"paused"`
	Info            info   `json:"info"`
	Token           string `json:"token"`
}

type verifyRequest struct {
	Info     info   `json:"info"`
	Token    string `json:"token"`
	SystemID string `json:"system_id,omitempty"`
}

type unregisterRequest struct {
	Token    string `json:"token"`
	SystemID string `json:"system_id,omitempty"`
}

// Verify asks whether the server knows the runner, and makes this machine known to it. It is also how a runner that
// was created in GitLab's pages (token glrt-…) is registered. A token that is not accepted is job.ErrForbidden; any
// other error says nothing about the token.
func (c *Client) Verify(ctx context.Context) (Registration, error) {
	const doing = "verify the runner"
	req := verifyRequest{Info: c.info, Token: c.token.Reveal(), SystemID: c.systemID}
	got, err := c.runnerCall(ctx, http.MethodPost, "runners/verify", req)
	if err != nil {
		return Registration{}, fmt.Errorf("%s: %w", doing, err)
	}
	if got.status != http.StatusOK {
		return Registration{}, fmt.Errorf("%s: %w", doing, got.statusError())
	}
	// GitLab: old servers answer with the bare status.
	if got.err == nil && strings.Trim(string(got.body), "\" \r\n") == "200" {
		return Registration{Token: c.token.Reveal()}, nil
	}
	reg := Registration{Token: c.token.Reveal()}
	if err := got.decode(&reg); err != nil {
		return Registration{}, fmt.Errorf("%s: %w", doing, err)
	}
	return reg, nil
}

// Register makes a new runner with a registration token (Options.Token). The answer carries the runner's own token,
// for which a new Client is needed.
//
// GitLab: deprecated since 15.6 in favour of Verify with a token from the pages.
func (c *Client) Register(ctx context.Context, o RegisterOptions) (Registration, error) {
	req := registerRequest{
		Description: o.Description, MaintenanceNote: o.MaintenanceNote, TagList: strings.Join(o.Tags, ","),
		RunUntagged: o.RunUntagged, Locked: o.Locked, AccessLevel: o.AccessLevel, MaximumTimeout: o.MaximumTimeout,
		Paused: o.Paused, Info: c.info.withoutExecutor(), Token: c.token.Reveal(),
	}
	return c.newToken(ctx, "register a runner", "runners", req)
}

type resetRequest struct {
	Token string `json:"token"`
}

// ResetToken replaces the runner's token. The old one, with which this client speaks, is worth nothing afterwards; the ID
// is not told. A token that is not accepted is job.ErrForbidden; after any other error nobody knows whether the token
// still counts.
func (c *Client) ResetToken(ctx context.Context) (Registration, error) {
	return c.newToken(ctx, resetting, "runners/reset_authentication_token", resetRequest{Token: c.token.Reveal()})
}

const resetting = "reset the runner's token"

// ResetTokenAs is ResetToken with the rights of a person, who shows a personal access token: for a runner whose own token does
// not count any more. id is the runner's. A person who may not do it is job.ErrForbidden.
func (c *Client) ResetTokenAs(ctx context.Context, id int64, person job.Secret) (Registration, error) {
	h := http.Header{}
	h.Set(personalToken, person.Reveal())
	r := call{method: http.MethodPost, path: fmt.Sprintf("runners/%d/reset_authentication_token", id), header: h, secret: person}
	got, err := c.do(ctx, r.wantJSON())
	return tokenOf(got, err, resetting)
}

// newToken makes a call whose answer is a token that did not exist before. doing names it in errors.
func (c *Client) newToken(ctx context.Context, doing, path string, req any) (Registration, error) {
	got, err := c.runnerCall(ctx, http.MethodPost, path, req)
	return tokenOf(got, err, doing)
}

// tokenOf reads the new token in an answer.
func tokenOf(got *reply, err error, doing string) (Registration, error) {
	if err != nil {
		return Registration{}, fmt.Errorf("%s: %w", doing, err)
	}
	if got.status != http.StatusCreated {
		return Registration{}, fmt.Errorf("%s: %w", doing, got.statusError())
	}
	var reg Registration
	if err := got.decode(&reg); err != nil {
		return Registration{}, fmt.Errorf("%s: %w", doing, err)
	}
	if reg.Token == "" {
		return Registration{}, fmt.Errorf("%s: the answer holds no token", doing)
	}
	return reg, nil
}

// Unregister removes this machine from a runner that was created in GitLab's pages (token glrt-…), or a runner that
// was made by Register altogether. A token that is not accepted is job.ErrForbidden.
func (c *Client) Unregister(ctx context.Context) error {
	const doing = "unregister the runner"
	path, req := "runners", unregisterRequest{Token: c.token.Reveal()}
	if strings.HasPrefix(req.Token, "glrt-") {
		path, req.SystemID = "runners/managers", c.systemID
	}
	got, err := c.runnerCall(ctx, http.MethodDelete, path, req)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	// GitLab: 404 where the runner has no such machine, which then needs no removing.
	if got.status == http.StatusNoContent || got.status == http.StatusNotFound && req.SystemID != "" {
		return nil
	}
	return fmt.Errorf("%s: %w", doing, got.statusError())
}

// runnerCall sends a call with the runner's token.
func (c *Client) runnerCall(ctx context.Context, method, path string, body any) (*reply, error) {
	r, err := newCall(method, path, runnerToken, c.token, body)
	if err != nil {
		return nil, err
	}
	if method != http.MethodDelete {
		r = r.wantJSON()
	}
	return c.do(ctx, r)
}
