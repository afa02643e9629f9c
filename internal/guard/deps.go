package guard

// Until the files that need them are here.
import (
	_ "github.com/moby/buildkit/api/services/control"
	_ "github.com/moby/buildkit/frontend/dockerfile/instructions"
	_ "github.com/moby/buildkit/frontend/dockerfile/linter"
	_ "github.com/moby/buildkit/frontend/dockerfile/parser"
	_ "github.com/moby/buildkit/frontend/dockerfile/shell"
	_ "github.com/moby/buildkit/session"
	_ "github.com/moby/buildkit/session/auth"
	_ "github.com/moby/buildkit/session/filesync"
	_ "github.com/moby/buildkit/session/secrets"
	_ "github.com/moby/buildkit/session/sshforward"
	_ "github.com/moby/moby/api/types/container"
	_ "github.com/tonistiigi/fsutil"
	_ "golang.org/x/net/http2"
	_ "google.golang.org/grpc"
)
