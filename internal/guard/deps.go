package guard

// Until the files that need them are here.
import (
	_ "github.com/moby/buildkit/api/services/control"
	_ "github.com/moby/buildkit/frontend/dockerfile/instructions"
	_ "github.com/moby/buildkit/frontend/dockerfile/linter"
	_ "github.com/moby/buildkit/frontend/dockerfile/parser"
	_ "github.com/moby/buildkit/frontend/dockerfile/shell"
	_ "github.com/moby/moby/api/types/container"
	_ "golang.org/x/net/http2"
)
