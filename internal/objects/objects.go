// Package objects is a client of a bucket on an S3 server: it fetches and stores objects by name, and says what to do about
// what goes wrong. It knows nothing of what is in an object.
package objects

import (
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
}

// Keys are what a server knows somebody by.
type Keys struct{ Access, Secret, Session job.Secret }

// Bucket is a bucket on a server. It is safe for concurrent use.
type Bucket struct {
	name      string
	server    string
	core      minio.Core
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
	b := &Bucket{name: o.Bucket, server: o.Address, encrypt: encryption(o), partSize: partSize}
	if b.server == "" {
		b.server = amazon
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
	lookup := minio.BucketLookupAuto
	if o.PathStyle != nil {
		lookup = minio.BucketLookupDNS
		if *o.PathStyle {
			lookup = minio.BucketLookupPath
		}
	}
	client, err := minio.New(b.server, &minio.Options{
		Creds: o.credentials(), Secure: !o.Insecure, Transport: transport, Region: o.Region, BucketLookup: lookup, MaxRetries: tries,
	})
	if err != nil {
		return nil, &Error{Server: b.server, Bucket: b.name, Err: err, Hint: "check ServerAddress in [runners.cache.s3]"}
	}
	client.SetS3EnableDualstack(!o.SingleIP)
	if o.Accelerate {
		endpoint := "s3-accelerate.dualstack.amazonaws.com"
		if o.SingleIP {
			endpoint = "s3-accelerate.amazonaws.com"
		}
		client.SetS3TransferAccelerate(endpoint)
	}
	b.core = minio.Core{Client: client}
	return b, nil
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
	body, info, _, err := b.core.GetObject(ctx, b.name, name, opts)
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
	info, err := b.core.StatObject(ctx, b.name, name, minio.StatObjectOptions{})
	return err == nil && etag != "" && info.ETag == etag
}

// Put stores an object and returns its ETag. progress is called with the bytes that went.
func (b *Bucket) Put(ctx context.Context, name string, from io.ReaderAt, size int64, progress func(n int64)) (etag string, err error) {
	info, err := b.core.Client.PutObject(ctx, b.name, name, io.NewSectionReader(from, 0, size), size, minio.PutObjectOptions{
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
