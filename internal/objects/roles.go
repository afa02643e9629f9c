package objects

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// Roles has the rights that Amazon's STS lends for roles, and keeps them, so that not every transfer has to ask for some. It is
// safe for concurrent use; the zero value is ready, and a process needs one.
type Roles struct {
	mu   sync.Mutex
	lent map[loan]credentials.Value
	full map[asker]chan struct{} // has one for each request that runs
}

// asker is who asks STS.
type asker struct {
	iam  bool
	keys Keys
	most int // requests at once
}

// loan is what STS is asked for.
type loan struct {
	asker
	endpoint, region string
	role, policy     string
}

const (
	defaultAssume = 5                // requests of STS at once
	lentFor       = time.Hour        // what every role may be lent for, and the most if whoever asks has a role of its own
	lentForSure   = 55 * time.Minute // what a transfer without an end is content with
	lentAtLeast   = time.Minute
	assumeTimeout = 30 * time.Second
)

// enough reports whether rights last as long as a transfer may take.
func enough(ctx context.Context, v credentials.Value) bool {
	need := lentForSure
	if end, ok := ctx.Deadline(); ok {
		need = max(lentAtLeast, min(lentForSure, time.Until(end)))
	}
	return time.Until(v.Expiration) >= need
}

// lend gives rights that were lent before, or asks for some with the keys of own.
func (r *Roles) lend(ctx context.Context, l loan, fresh bool, own *credentials.Credentials, client *http.Client) (credentials.Value, error) {
	if v, ok := r.find(ctx, l); ok && !fresh {
		return v, nil
	}
	leave, err := r.enter(ctx, l.asker)
	if err != nil {
		return credentials.Value{}, err
	}
	defer leave()
	if v, ok := r.find(ctx, l); ok && !fresh { // somebody else asked meanwhile
		return v, nil
	}
	v, err := l.ask(ctx, own, client)
	if err == nil && !fresh {
		r.keep(l, v)
	}
	return v, err
}

func (r *Roles) find(ctx context.Context, l loan) (credentials.Value, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.lent[l]
	return v, ok && enough(ctx, v)
}

func (r *Roles) keep(l loan, v credentials.Value) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lent == nil {
		r.lent = map[loan]credentials.Value{}
	}
	for other, v := range r.lent {
		if time.Until(v.Expiration) < lentAtLeast {
			delete(r.lent, other)
		}
	}
	r.lent[l] = v
}

// enter waits until there is room for one more request.
func (r *Roles) enter(ctx context.Context, a asker) (leave func(), err error) {
	if a.most < 0 {
		return func() {}, nil
	}
	r.mu.Lock()
	if r.full == nil {
		r.full = map[asker]chan struct{}{}
	}
	if r.full[a] == nil {
		n := a.most
		if n == 0 {
			n = defaultAssume
		}
		r.full[a] = make(chan struct{}, n)
	}
	room := r.full[a]
	r.mu.Unlock()
	select {
	case room <- struct{}{}:
		return func() { <-room }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// ask asks STS.
func (l loan) ask(ctx context.Context, own *credentials.Credentials, client *http.Client) (credentials.Value, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, assumeTimeout, fmt.Errorf("no answer within %s", assumeTimeout))
	defer cancel()
	call := &credentials.CredContext{Client: client, Context: ctx}
	keys, err := own.GetWithContext(call)
	if err != nil {
		return credentials.Value{}, fmt.Errorf("%w: %w", errNoKeys, err)
	}
	if keys.AccessKeyID == "" || keys.SecretAccessKey == "" {
		return credentials.Value{}, errNoKeys
	}
	sts := credentials.STSAssumeRole{STSEndpoint: l.endpoint, Options: credentials.STSAssumeRoleOptions{
		AccessKey: keys.AccessKeyID, SecretKey: keys.SecretAccessKey, SessionToken: keys.SessionToken,
		Location: l.region, RoleARN: l.role, RoleSessionName: "slipway-cache", Policy: l.policy, DurationSeconds: int(lentFor.Seconds()),
	}}
	v, err := sts.RetrieveWithCredContext(call)
	if err == nil && (v.AccessKeyID == "" || v.SecretAccessKey == "") {
		err = errors.New("the answer has no keys")
	}
	return v, err
}

var errNoKeys = errors.New("there are no keys to ask with")

// loan is what the bucket's objects need of a role.
func (b *Bucket) loan(role string) loan {
	o := b.options
	l := loan{asker: asker{iam: o.IAM, keys: o.Keys, most: o.MaxAssume}, endpoint: o.STS, region: o.Region, role: role, policy: b.policy(role)}
	if l.region == "" {
		l.region = "us-east-1"
	}
	switch {
	case l.endpoint != "":
	case o.Region == "":
		l.endpoint = "https://sts.amazonaws.com"
	case strings.HasPrefix(o.Region, "cn-"):
		l.endpoint = "https://sts." + o.Region + ".amazonaws.com.cn"
	default:
		l.endpoint = "https://sts." + o.Region + ".amazonaws.com"
	}
	return l
}

// policy is what of a role's rights is asked for: those over objects within Within. The bucket's own list is among them, because
// without it Amazon denies an object that is not there. Which keys of KMS may be used is left to the role; other servers do not
// know of them.
//
// GitLab: a policy for one object and one direction, because its runner gives the keys to the job's machine. Ours stay here.
func (b *Bucket) policy(role string) string {
	partition := "aws"
	if parts := strings.Split(role, ":"); len(parts) > 1 && strings.HasPrefix(parts[1], "aws-") { // arn:aws-cn:iam::…
		partition = parts[1]
	}
	bucket := "arn:" + partition + ":s3:::" + b.name
	// In a policy these would stand for more than themselves.
	within := strings.NewReplacer("*", "${*}", "?", "${?}", "$", "${$}").Replace(b.options.Within)
	type statement struct {
		Effect   string
		Action   []string
		Resource string
	}
	allow := []statement{
		{"Allow", []string{"s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"}, bucket + "/" + within + "*"},
		{"Allow", []string{"s3:ListBucket", "s3:GetBucketLocation"}, bucket},
	}
	if s3utils.IsAmazonEndpoint(*b.core.EndpointURL()) || b.options.encrypted() {
		allow = append(allow, statement{"Allow", []string{"kms:Decrypt", "kms:GenerateDataKey"}, "*"})
	}
	text, _ := json.Marshal(struct { // strings only
		Version   string
		Statement []statement
	}{"2012-10-17", allow})
	return string(text)
}
