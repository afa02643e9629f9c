// Package objects is a client of a bucket on an S3 server: it fetches and stores objects by name, and says what to do about
// what goes wrong. It knows nothing of what is in an object.
package objects

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/encrypt"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/slipway-ci/slipway/internal/job"
)

// Options say which bucket it is, and who asks.
type Options struct {
	Address    string // host[:port]; "" = Amazon's
	Insecure   bool   // http
	Bucket     string
	Region     string // "" = the server is asked
	IAM        bool   // Keys are not used, but what Amazon gives to this machine: environment, files, role
	Keys       Keys
	Encrypt    string // who encrypts: S3, KMS, DSSE-KMS, or "" = as the bucket says
	KeyID      string // of KMS and DSSE-KMS; "" = the bucket's
	SingleIP   bool   // Amazon's addresses for IPv4 only
	PathStyle  *bool  // the bucket stands in the path, not in the host's name; nil = all but Amazon's
	Accelerate bool   // Amazon's transfer acceleration

	// Role is asked for its rights, with IAM or Keys, and objects are fetched and stored with those; UploadRole is that for
	// storing only, and without Role. Both are Amazon's ARNs; "" = the rights of IAM or Keys themselves.
	Role, UploadRole string
	Within           string // what the names of all objects begin with; the rights are asked for these only
	STS              string // URL of who lends the rights; "" = Amazon's, of the region
	MaxAssume        int    // requests for rights at once; 0 = 5, -1 = any number
	FreshRights      bool   // those that were lent for one transfer are not used for another
	Roles            *Roles // what was lent before; nil = nothing
}

// Keys are what a server knows somebody by.
type Keys struct{ Access, Secret, Session job.Secret }

// Bucket is a bucket on a server. It is safe for concurrent use.
type Bucket struct {
	options   Options
	name      string
	server    string
	own       *credentials.Credentials // of IAM or Keys
	core      minio.Core               // with the rights of own
	roles     *Roles
	encrypt   encrypt.ServerSide
	transport *http.Transport
	partSize  uint64 // what is larger goes in several requests
}

const (
	amazon      = "s3.amazonaws.com"
	dialTimeout = 10 * time.Second
	tries       = 3 // of each request
	partSize    = 64 << 20
)

// Open makes a client. It does not ask the server yet.
func Open(o Options) (*Bucket, error) {
	b := &Bucket{options: o, name: o.Bucket, server: o.Address, roles: o.Roles, encrypt: encryption(o), partSize: partSize}
	if b.server == "" {
		b.server = amazon
	}
	if b.roles == nil {
		b.roles = &Roles{}
	}
	if err := s3utils.CheckValidBucketName(b.name); err != nil {
		return nil, &Error{Server: b.server, Bucket: b.name, Err: err, Hint: "write the bucket's name as BucketName in [runners.cache.s3]"}
	}
	transport, err := minio.DefaultTransport(!o.Insecure)
	if err != nil {
		return nil, fmt.Errorf("prepare connections to the S3 server: %w", err)
	}
	transport.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	b.transport = transport
	b.own = o.credentials()
	b.core, err = b.client(b.own)
	return b, err
}

// client makes a client that has the given keys.
func (b *Bucket) client(keys *credentials.Credentials) (minio.Core, error) {
	o := b.options
	lookup := minio.BucketLookupAuto
	if o.PathStyle != nil {
		lookup = minio.BucketLookupDNS
		if *o.PathStyle {
			lookup = minio.BucketLookupPath
		}
	}
	client, err := minio.New(b.server, &minio.Options{
		Creds: keys, Secure: !o.Insecure, Transport: b.transport, Region: o.Region, BucketLookup: lookup, MaxRetries: tries,
	})
	if err != nil {
		return minio.Core{}, &Error{Server: b.server, Bucket: b.name, Err: err, Hint: "check ServerAddress in [runners.cache.s3]"}
	}
	client.SetS3EnableDualstack(!o.SingleIP)
	if o.Accelerate {
		endpoint := "s3-accelerate.dualstack.amazonaws.com"
		if o.SingleIP {
			endpoint = "s3-accelerate.amazonaws.com"
		}
		client.SetS3TransferAccelerate(endpoint)
	}
	return minio.Core{Client: client}, nil
}

// fetching is a client that has the rights to fetch objects.
func (b *Bucket) fetching(ctx context.Context) (minio.Core, error) { return b.as(ctx, b.options.Role) }

// storing is a client that has the rights to store objects.
//
// GitLab: RoleARN goes before UploadRoleARN.
func (b *Bucket) storing(ctx context.Context) (minio.Core, error) {
	return b.as(ctx, cmp.Or(b.options.Role, b.options.UploadRole))
}

// as is a client that has the rights of a role; "" = those of IAM or Keys.
func (b *Bucket) as(ctx context.Context, role string) (minio.Core, error) {
	if role == "" {
		return b.core, nil
	}
	l := b.loan(role)
	keys, err := b.roles.lend(ctx, l, b.options.FreshRights, b.own, &http.Client{Transport: b.transport})
	if err != nil {
		return minio.Core{}, b.explainRole(ctx, l, err)
	}
	return b.client(credentials.NewStaticV4(keys.AccessKeyID, keys.SecretAccessKey, keys.SessionToken))
}

// credentials are the keys, or whatever of Amazon's ways to give some works on this machine.
func (o Options) credentials() *credentials.Credentials {
	if !o.IAM {
		return credentials.NewStaticV4(o.Keys.Access.Reveal(), o.Keys.Secret.Reveal(), o.Keys.Session.Reveal())
	}
	return credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
	})
}

// Close ends the connections that nobody uses.
func (b *Bucket) Close() { b.transport.CloseIdleConnections() }

// Get writes an object to a file and returns its ETag. known is that of the caller's copy: if the object still has it, nothing
// is written, and the error is ErrUnchanged. The error is ErrNone if there is no object of that name. progress is called with
// the bytes that came.
func (b *Bucket) Get(ctx context.Context, name, known string, to io.Writer, progress func(n int64)) (etag string, err error) {
	var opts minio.GetObjectOptions
	if known != "" {
		if err := opts.SetMatchETagExcept(known); err != nil {
			return "", err
		}
	}
	core, err := b.fetching(ctx)
	if err != nil {
		return "", err
	}
	body, info, _, err := core.GetObject(ctx, b.name, name, opts)
	if err != nil {
		return "", b.explain(ctx, err)
	}
	defer body.Close()
	if known != "" && info.ETag == known { // a server that does not know of conditions
		return "", ErrUnchanged
	}
	out := &kept{Writer: to}
	if _, err := io.Copy(out, &counted{body, progress}); out.err != nil {
		return "", fmt.Errorf("keep what was fetched: %w", out.err)
	} else if err != nil {
		return "", b.explain(ctx, err)
	}
	return info.ETag, nil
}

// Has reports whether an object has that ETag; false if it cannot be told.
func (b *Bucket) Has(ctx context.Context, name, etag string) bool {
	core, err := b.fetching(ctx)
	if err != nil {
		return false
	}
	info, err := core.StatObject(ctx, b.name, name, minio.StatObjectOptions{})
	return err == nil && etag != "" && info.ETag == etag
}

// Put stores an object and returns its ETag. progress is called with the bytes that went.
func (b *Bucket) Put(ctx context.Context, name string, from io.ReaderAt, size int64, progress func(n int64)) (etag string, err error) {
	core, err := b.storing(ctx)
	if err != nil {
		return "", err
	}
	info, err := core.Client.PutObject(ctx, b.name, name, io.NewSectionReader(from, 0, size), size, minio.PutObjectOptions{
		ContentType: "application/zip", ServerSideEncryption: b.encrypt, PartSize: b.partSize, Progress: counter(progress),
		// Without TLS the library would sign piece by piece, in a reader that it and net/http may close at the same moment.
		// GitLab: its runner's uploads are not signed in this way either.
		DisableContentSha256: true,
	})
	if err != nil {
		return "", b.explain(ctx, err)
	}
	return info.ETag, nil
}

// kept tells errors of this machine from those of the server.
type kept struct {
	io.Writer
	err error
}

func (k *kept) Write(p []byte) (n int, err error) {
	n, k.err = k.Writer.Write(p)
	return n, k.err
}

// counted tells how far a download is.
type counted struct {
	io.Reader
	progress func(n int64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.progress(int64(n))
	return n, err
}

// counter is how the client tells how far an upload is: by reading as much from it.
type counter func(n int64)

func (c counter) Read(p []byte) (int, error) {
	c(int64(len(p)))
	return len(p), nil
}

// encrypted reports whether objects are encrypted with keys that Amazon manages.
func (o Options) encrypted() bool { return o.Encrypt == "KMS" || o.Encrypt == "DSSE-KMS" }

// encryption is what an upload asks for.
func encryption(o Options) encrypt.ServerSide {
	switch o.Encrypt {
	case "S3":
		return encrypt.NewSSE()
	case "KMS":
		return managed{"aws:kms", o.KeyID}
	case "DSSE-KMS":
		return managed{"aws:kms:dsse", o.KeyID}
	}
	return nil
}

// managed is encryption with keys that Amazon manages, once or twice.
type managed struct{ method, key string }

// Type implements encrypt.ServerSide.
func (managed) Type() encrypt.Type { return encrypt.KMS }

// Marshal implements encrypt.ServerSide.
func (m managed) Marshal(h http.Header) {
	h.Set(encrypt.SseGenericHeader, m.method)
	if m.key != "" {
		h.Set(encrypt.SseKmsKeyID, m.key)
	}
}

// What may become of a request.
var (
	ErrNone      = errors.New("there is no such object")
	ErrUnchanged = errors.New("it has not changed")
	ErrDenied    = errors.New("access denied")
)
