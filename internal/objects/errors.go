package objects

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Error is what went wrong with a bucket, and what to do about it.
type Error struct {
	Server, Bucket string
	Err            error
	Hint           string
}

// Error names bucket, server, mistake and cure.
func (e *Error) Error() string {
	s := fmt.Sprintf("the bucket %s on %s: %v", e.Bucket, e.Server, e.Err)
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// explain says what an operator can do about an error of the client.
func (b *Bucket) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e := &Error{Server: b.server, Bucket: b.name, Err: err}
	answer := minio.ToErrorResponse(err)
	if answer.StatusCode == 0 && answer.Code == "" {
		e.Hint, e.Err = unreached(err)
		return e
	}
	if answer.StatusCode == http.StatusNotModified {
		return ErrUnchanged
	}
	e.Err = fmt.Errorf("%w [%s]", err, answer.Code)
	switch answer.Code {
	case "NoSuchKey":
		return ErrNone
	case "NoSuchBucket":
		e.Hint = "make the bucket, or write its name as BucketName in [runners.cache.s3]"
	case "AccessDenied", "AllAccessDisabled", "AccountProblem":
		e.Err = fmt.Errorf("%w: %w", ErrDenied, e.Err)
		e.Hint = "whoever asks needs s3:GetObject and s3:PutObject for the bucket's objects, and s3:ListBucket, without which an object that is not there is denied too"
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidTokenId", "ExpiredToken", "UnauthorizedAccess":
		e.Hint = "check AccessKey, SecretKey and SessionToken in [runners.cache.s3], and this machine's clock"
	case "RequestTimeTooSkewed":
		e.Hint = "set this machine's clock"
	case "AuthorizationHeaderMalformed", "InvalidRegion", "PermanentRedirect", "IllegalLocationConstraintException", "TemporaryRedirect":
		e.Hint = "write the bucket's region as BucketLocation in [runners.cache.s3]"
		if answer.Region != "" {
			e.Hint = fmt.Sprintf("write BucketLocation = %q in [runners.cache.s3]", answer.Region)
		}
	}
	return e
}

// explainRole says what an operator can do about an error of STS.
func (b *Bucket) explainRole(ctx context.Context, l loan, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e := &Error{Server: b.server, Bucket: b.name, Err: err}
	var answer credentials.ErrorResponse
	var at *url.Error
	switch {
	case errors.Is(err, errNoKeys):
		e.Hint = `write AccessKey and SecretKey below [runners.cache.s3] with AuthenticationType = "access-key", or give this machine rights of Amazon's, such as a role of its instance`
	case errors.As(err, &answer):
		e.Err = fmt.Errorf("%w [%s]", err, answer.STSError.Code)
		e.Hint = stsHint(answer.STSError.Code)
	case errors.As(err, &at):
		e.Err = at.Err
		e.Hint = "check that this machine reaches it; the variable AWS_ENDPOINT_URL_STS of slipway names another one"
	}
	e.Err = fmt.Errorf("assume the role %s at %s: %w", l.role, l.endpoint, e.Err)
	return e
}

// stsHint is what to do about an error code of STS.
func stsHint(code string) string {
	switch code {
	case "AccessDenied":
		return "whoever asks needs sts:AssumeRole for the role, and the role's trust policy must name who asks; check RoleARN or UploadRoleARN in [runners.cache.s3]"
	case "InvalidClientTokenId", "SignatureDoesNotMatch", "IncompleteSignature", "MissingAuthenticationToken", "InvalidAccessKeyId":
		return "check AccessKey, SecretKey and SessionToken in [runners.cache.s3], and this machine's clock"
	case "ExpiredToken", "ExpiredTokenException", "RequestExpired":
		return "the keys that ask have expired: write new ones below [runners.cache.s3], or check this machine's clock"
	case "ValidationError", "InvalidParameterValue":
		return `check RoleARN or UploadRoleARN in [runners.cache.s3]: it looks like "arn:aws:iam::123456789012:role/name"`
	case "RegionDisabledException":
		return "activate STS for the region in the account, or write another BucketLocation in [runners.cache.s3]"
	case "Throttling", "ThrottlingException", "RequestLimitExceeded":
		return "let fewer ask at once with AssumeRoleMaxConcurrency in [runners.cache.s3]"
	}
	return ""
}

// unreached is about what is no answer of the server.
func unreached(err error) (hint string, cause error) {
	var at *url.Error
	if !errors.As(err, &at) {
		return "", err // the connection broke, or the client itself refuses a name
	}
	err = at.Err // without the address of the object, which the log names anyway
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case errors.As(err, &unknown):
		hint = "let this machine's system trust the server's certificate, or name a file with it in SSL_CERT_FILE"
	case errors.As(err, &name):
		hint = "write the address that the server's certificate names as ServerAddress in [runners.cache.s3]"
	case err.Error() == "http: server gave HTTP response to HTTPS client":
		hint = "write Insecure = true in [runners.cache.s3] if the server speaks only http"
	default:
		hint = "check that the server runs and that this machine reaches it; ServerAddress in [runners.cache.s3] names it"
	}
	return hint, err
}
