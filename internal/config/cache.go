package config

import (
	"slices"
	"strings"
)

// RunnerCache is [runners.cache]: where the archives of the cache keyword are kept beside this machine.
type RunnerCache struct {
	Type                   string  `toml:"Type,omitempty"`                  // CacheOnS3, or "" = on this machine only
	Path                   string  `toml:"Path,omitempty"`                  // what all names of objects begin with
	Shared                 bool    `toml:"Shared,omitempty"`                // with other runners; their names of objects say nothing of the runner then
	MaxUploadedArchiveSize int64   `toml:"MaxUploadedArchiveSize,omitzero"` // bytes; 0 = no limit
	S3                     CacheS3 `toml:"s3,omitempty"`
}

// CacheS3 is [runners.cache.s3].
type CacheS3 struct {
	ServerAddress             string `toml:"ServerAddress,omitempty"` // host[:port]; "" = Amazon's
	AccessKey                 Secret `toml:"AccessKey,omitempty"`
	SecretKey                 Secret `toml:"SecretKey,omitempty"`
	SessionToken              Secret `toml:"SessionToken,omitempty"`
	BucketName                string `toml:"BucketName,omitempty"`
	BucketLocation            string `toml:"BucketLocation,omitempty"`            // region; "" = the server is asked
	Insecure                  bool   `toml:"Insecure,omitempty"`                  // http
	AuthenticationType        string `toml:"AuthenticationType,omitempty"`        // AuthAccessKey or AuthIAM
	ServerSideEncryption      string `toml:"ServerSideEncryption,omitempty"`      // EncryptS3, EncryptKMS or EncryptDSSE; "" = as the bucket says
	ServerSideEncryptionKeyID string `toml:"ServerSideEncryptionKeyID,omitempty"` // of EncryptKMS and EncryptDSSE
	DualStack                 *bool  `toml:"DualStack,omitempty"`                 // Amazon's addresses of both kinds; nil = true
	PathStyle                 *bool  `toml:"PathStyle,omitempty"`                 // nil = all but Amazon's
	Accelerate                bool   `toml:"Accelerate,omitempty"`                // Amazon's transfer acceleration
	RoleARN                   string `toml:"RoleARN,omitempty"`                   // of Amazon's: whose rights are used; "" = those of the keys or of the machine
	UploadRoleARN             string `toml:"UploadRoleARN,omitempty"`             // the same for uploads, without RoleARN

	AssumeRoleMaxConcurrency            int  `toml:"AssumeRoleMaxConcurrency,omitzero"`             // requests for a role's rights at once; 0 = 5, -1 = any number
	DisableAssumeRoleCredentialsCaching bool `toml:"DisableAssumeRoleCredentialsCaching,omitempty"` // each transfer asks for rights of its own
}

// CacheOnS3 is the Type of caches on an S3 server.
const CacheOnS3 = "s3"

// How the S3 server is told who asks.
const (
	AuthAccessKey = "access-key" // AccessKey and SecretKey
	AuthIAM       = "iam"        // what Amazon gives to the machine
)

// Who encrypts objects on the S3 server.
const (
	EncryptS3   = "S3"
	EncryptKMS  = "KMS"
	EncryptDSSE = "DSSE-KMS"
)

// cache checks [runners.cache]. The keys of a Type that is not chosen mean nothing.
func (c *checker) cache(at string, r *RunnerCache) {
	const onlyHere = "caches stay on this machine, where other runners do not find them"
	switch r.Type {
	case "":
		if r.S3 != (CacheS3{}) && c.lost(child(at, "Type")) {
			c.cacheS3(child(at, "s3"), &r.S3)
		} else if r.S3 != (CacheS3{}) {
			c.warn(child(at, "s3"), `write Type = "s3" below [runners.cache]`, "has no effect without Type: "+onlyHere)
		}
	case CacheOnS3:
		c.cacheS3(child(at, "s3"), &r.S3)
	case "gcs", "azure":
		cure := `write Type = "s3", and ServerAddress = "storage.googleapis.com", the bucket and an HMAC key of it below [runners.cache.s3]`
		if r.Type == "azure" {
			cure = `write Type = "s3" for a server that speaks S3, which Azure's storage does not; or take Type out`
		}
		c.warn(child(at, "Type"), cure, "%q is not supported: "+onlyHere, r.Type)
		r.Type = ""
	default:
		c.fail(child(at, "Type"), `write Type = "s3", or leave it out for caches on this machine`, "%q is not known", r.Type)
		if r.S3 != (CacheS3{}) {
			c.cacheS3(child(at, "s3"), &r.S3)
		}
	}
	r.MaxUploadedArchiveSize = max(r.MaxUploadedArchiveSize, 0)
}

// cacheS3 checks [runners.cache.s3] and says how its server is told who asks.
//
// GitLab: it is IAM without an address or a key; letter case counts for nothing in the two words below.
func (c *checker) cacheS3(at string, s *CacheS3) {
	if s.BucketName == "" {
		c.fail(child(at, "BucketName"), `write BucketName = "…" below [runners.cache.s3]`, "is missing")
	}
	if strings.ContainsAny(s.ServerAddress, "/ ") {
		c.fail(child(at, "ServerAddress"), `write ServerAddress = "s3.example.com:9000"; for http add Insecure = true`, "is not a host, with its port if it has one")
	}
	switch auth := strings.ToLower(s.AuthenticationType); auth {
	case AuthIAM:
		s.AuthenticationType = auth
	case AuthAccessKey:
		s.AuthenticationType = auth
		for key, value := range map[string]Secret{"AccessKey": s.AccessKey, "SecretKey": s.SecretKey} {
			if value == "" {
				c.fail(child(at, key), `write it below [runners.cache.s3], or AuthenticationType = "iam"`, "is missing")
			}
		}
	case "":
		s.AuthenticationType = AuthAccessKey
		if s.ServerAddress == "" || s.AccessKey == "" || s.SecretKey == "" {
			s.AuthenticationType = AuthIAM
			if known := !c.lost(child(at, "ServerAddress"), child(at, "AccessKey"), child(at, "SecretKey")); known && (s.AccessKey != "" || s.SecretKey != "") {
				c.warn(child(at, "AuthenticationType"), `write AuthenticationType = "access-key" and both keys, or "iam"`,
					"is not set, and not all of ServerAddress, AccessKey and SecretKey are: the keys are not used, but the rights that Amazon gives to this machine (iam)")
			}
		}
	default:
		c.oneOf(child(at, "AuthenticationType"), s.AuthenticationType, []string{AuthAccessKey, AuthIAM})
	}
	c.roles(at, s)
	forms := map[string][]string{EncryptS3: {"AES256"}, EncryptKMS: {"AWS:KMS"}, EncryptDSSE: {"AWS:KMS:DSSE"}}
	written := strings.ToUpper(s.ServerSideEncryption)
	for form, also := range forms {
		if written == form || slices.Contains(also, written) {
			s.ServerSideEncryption = form
			return
		}
	}
	c.oneOf(child(at, "ServerSideEncryption"), s.ServerSideEncryption, []string{"", EncryptS3, EncryptKMS, EncryptDSSE})
}

// roles checks whose rights the S3 server is asked with.
//
// GitLab: RoleARN is for downloads and uploads, UploadRoleARN (deprecated there) for uploads and only without it.
func (c *checker) roles(at string, s *CacheS3) {
	if s.RoleARN != "" && s.UploadRoleARN != "" && s.UploadRoleARN != s.RoleARN {
		c.warn(child(at, "UploadRoleARN"), "leave it out: RoleARN is for uploads too", "is not used, because RoleARN is set")
	}
	for key, arn := range map[string]string{"RoleARN": s.RoleARN, "UploadRoleARN": s.UploadRoleARN} {
		if arn != "" && !strings.HasPrefix(arn, "arn:") {
			c.warn(child(at, key), `write it like "arn:aws:iam::123456789012:role/name"`, "%q is no ARN of a role", arn)
		}
	}
}
