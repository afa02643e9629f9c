package guard

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	control "github.com/moby/buildkit/api/services/control"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	policy "github.com/moby/buildkit/sourcepolicy/pb"
	"google.golang.org/grpc/codes"
	grpcmeta "google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
)

// marshalOps makes a definition of operations, each the input of the next.
func marshalOps(t *testing.T, ops ...*pb.Op) *pb.Definition {
	t.Helper()
	d := &pb.Definition{}
	for _, op := range ops {
		data, err := op.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		d.Def = append(d.Def, data)
	}
	return d
}

func sourceOp(identifier string) *pb.Op {
	return &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: identifier}}}
}

// ofTomorrow is an operation of a kind that the guard's BuildKit does not know.
func ofTomorrow() *pb.Op {
	op := &pb.Op{Inputs: []*pb.Input{{}}}
	op.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 99, protowire.BytesType), []byte("x")))
	return op
}

// TestGRPCAttacks: none of these is built, and none reaches the Engine as it was asked.
func TestGRPCAttacks(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	internal := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	t.Cleanup(internal.Close)
	r := newRig(t, withWait(5*time.Second)) // some of them name sessions that there are not
	good := folder(t, "Dockerfile", "FROM "+alpine+"\nLABEL ok=1\n")
	evil := "FROM " + alpine + "\nLABEL evil=" + r.policy.Token + "\n"
	type change = func(*control.SolveRequest, *gateway.SolveRequest)
	opt := func(pairs ...string) change {
		return func(_ *control.SolveRequest, f *gateway.SolveRequest) {
			for i := 0; i < len(pairs); i += 2 {
				f.FrontendOpt[pairs[i]] = pairs[i+1]
			}
		}
	}
	export := func(kind string, pairs ...string) change {
		return func(s *control.SolveRequest, _ *gateway.SolveRequest) {
			attrs := map[string]string{}
			for i := 0; i < len(pairs); i += 2 {
				attrs[pairs[i]] = pairs[i+1]
			}
			s.Exporters = []*control.Exporter{{Type: kind, Attrs: attrs}}
		}
	}
	cacheTo := func(kind string, attrs map[string]string) change {
		return func(s *control.SolveRequest, _ *gateway.SolveRequest) {
			s.Cache.Exports = []*control.CacheOptionsEntry{{Type: kind, Attrs: attrs}}
		}
	}
	definition := func(ops ...*pb.Op) change {
		return func(_ *control.SolveRequest, f *gateway.SolveRequest) {
			f.Frontend, f.FrontendOpt, f.Definition = "", nil, marshalOps(t, ops...)
		}
	}
	for name, c := range map[string]struct {
		dockerfile string // "" = an honest one
		change     change
		rule       string // "" = a mistake
	}{
		"an entitlement":          {change: func(s *control.SolveRequest, _ *gateway.SolveRequest) { s.Entitlements = []string{"network.host"} }, rule: "build-network-host"},
		"an insecure entitlement": {change: func(s *control.SolveRequest, _ *gateway.SolveRequest) { s.Entitlements = []string{"security.insecure"} }, rule: "build-security"},
		"a device entitlement":    {change: func(s *control.SolveRequest, _ *gateway.SolveRequest) { s.Entitlements = []string{"device=x"} }, rule: "build-security"},
		"a frontend at once":      {change: func(s *control.SolveRequest, _ *gateway.SolveRequest) { s.Frontend = frontendName }, rule: "build-definition"},
		"a definition at once": {change: func(s *control.SolveRequest, _ *gateway.SolveRequest) {
			s.Definition = marshalOps(t, sourceOp("docker-image://"+alpine))
		}, rule: "build-definition"},
		"inputs at once": {change: func(s *control.SolveRequest, _ *gateway.SolveRequest) {
			s.FrontendInputs = map[string]*pb.Definition{"x": marshalOps(t, sourceOp("x"))}
		}, rule: "build-definition"},
		"an exporter of a session": {change: func(s *control.SolveRequest, _ *gateway.SolveRequest) { s.EnableSessionExporter = true }, rule: "build-outputs"},
		"a proxy":                  {change: func(s *control.SolveRequest, _ *gateway.SolveRequest) { s.ProxyNetwork = true }, rule: "build-network"},
		"a policy":                 {change: func(s *control.SolveRequest, _ *gateway.SolveRequest) { s.SourcePolicy = &policy.Policy{} }, rule: "build-policy"},
		"a policy of a session":    {change: func(s *control.SolveRequest, _ *gateway.SolveRequest) { s.SourcePolicySession = "x" }, rule: "build-policy"},
		"a policy in the build":    {change: func(_ *control.SolveRequest, f *gateway.SolveRequest) { f.SourcePolicies = []*policy.Policy{{}} }, rule: "build-policy"},
		"another session":          {change: func(s *control.SolveRequest, _ *gateway.SolveRequest) { s.Session = "nobodys" }},
		"a reference of ours":      {change: func(s *control.SolveRequest, _ *gateway.SolveRequest) { s.Ref = "../x" }},

		"another kind of output": {change: export("s3", "bucket", "x"), rule: "build-outputs"},
		"an insecure registry":   {change: export("image", "name", "x", "registry.insecure", "true"), rule: "build-outputs"},
		"a prefix for names":     {change: export("moby", "dangling-name-prefix", alpine), rule: "build-outputs"},
		"a push to the machine":  {change: export("image", "name", "127.0.0.1:5000/x", "push", "true"), rule: "registry-host"},
		"a name that is none":    {change: export("moby", "name", "not a name")},
		"a digest for a name":    {change: export("moby", "name", "x@sha256:"+strings.Repeat("a", 64))},
		"a cache elsewhere":      {change: cacheTo("gha", map[string]string{"url": internal.URL}), rule: "build-cache-to"},
		"a cache on the machine": {change: cacheTo("registry", map[string]string{"ref": strings.TrimPrefix(internal.URL, "http://") + "/x"}), rule: "registry-host"},
		"a cache, insecure":      {change: cacheTo("registry", map[string]string{"ref": "registry.example.com/x", "registry.insecure": "true"}), rule: "build-cache-to"},
		"a cache in a folder":    {change: cacheTo("local", map[string]string{"dest": "/"}), rule: "build-cache-to"},
		"a cache, in the old way": {change: func(s *control.SolveRequest, _ *gateway.SolveRequest) {
			s.Cache.ExportRefDeprecated = "127.0.0.1:5000/x"
		}, rule: "registry-host"},

		"operations of its own":    {change: definition(&pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Meta: &pb.Meta{Args: []string{"sh"}}}}}, &pb.Op{Inputs: []*pb.Input{{}}}), rule: "build-definition"},
		"an image by operation":    {change: definition(sourceOp("docker-image://docker.io/"+alpine), &pb.Op{Inputs: []*pb.Input{{}}}), rule: "build-definition"},
		"a repository":             {change: definition(sourceOp("git://127.0.0.1/x.git"), &pb.Op{Inputs: []*pb.Input{{}}}), rule: "build-remote"},
		"an address":               {change: definition(sourceOp(internal.URL), &pb.Op{Inputs: []*pb.Input{{}}}), rule: "build-remote"},
		"an operation of tomorrow": {change: definition(&pb.Op{Inputs: []*pb.Input{{}}}, ofTomorrow()), rule: "build-definition"},
		"no operations":            {change: definition(&pb.Op{Inputs: []*pb.Input{{}, {}}}), rule: "build-definition"},
		"a frontend and both":      {change: func(_ *control.SolveRequest, f *gateway.SolveRequest) { f.Definition = marshalOps(t, sourceOp("x")) }, rule: "build-frontend"},
		"another frontend":         {change: func(_ *control.SolveRequest, f *gateway.SolveRequest) { f.Frontend = "evil.v0" }, rule: "build-frontend"},
		"an unknown option":        {change: opt("entitle", "all"), rule: "build-option"},
		"a bill of materials":      {change: opt("attest:sbom", "generator="+alpine), rule: "build-attest"},
		"another attestation":      {change: opt("attest:provenance", "evil=1"), rule: "build-attest"},
		"the machine's network":    {change: opt("force-network-mode", "host"), rule: "build-network-host"},
		"another's network":        {change: opt("force-network-mode", "container:x"), rule: "build-network"},
		"a remote context":         {change: opt("context", internal.URL+"/Dockerfile"), rule: "build-remote"},
		"a remote named context":   {change: opt("context:x", "https://example.com/x.tar"), rule: "build-remote"},
		"a repository as one":      {change: opt("context:x", "git@example.com:x/y.git"), rule: "build-remote"},
		"an image in a folder":     {change: opt("context:x", "oci-layout://x@sha256:"+strings.Repeat("a", 64)), rule: "build-context-oci"},
		"an input that is none":    {change: opt("context:x", "input:x")},
		"an input of its own": {change: func(_ *control.SolveRequest, f *gateway.SolveRequest) {
			f.FrontendOpt["context:x"] = "input:x"
			f.FrontendInputs = map[string]*pb.Definition{"x": marshalOps(t, sourceOp("docker-image://docker.io/"+alpine), &pb.Op{Inputs: []*pb.Input{{}}})}
		}, rule: "build-definition"},
		"a folder of another":   {change: opt("local-sessionid:dockerfile", "nobodys")},
		"a folder with a break": {change: opt("contextkey", "a\nb")},
		"a folder of no name":   {change: opt("dockerfilekey", "../x")},
		"a host name":           {change: opt("hostname", "a b")},
		"a subrequest":          {change: opt("requestid", "evil")},
		"two platforms":         {change: opt("platform", "linux/amd64,linux/arm64")},
		"a host and a zone":     {change: opt("add-hosts", "x=fe80::1%a")},
		"hosts on two lines":    {change: opt("add-hosts", "x=1.1.1.1\ny=2.2.2.2")},
		"limits of nonsense":    {change: opt("ulimit", "nofile=x")},

		"a step on the host":     {dockerfile: evil + "RUN --network=host id\n", rule: "build-network-host"},
		"an insecure step":       {dockerfile: evil + "RUN --security=insecure id\n", rule: "build-insecure"},
		"an internal address":    {dockerfile: evil + "ADD " + internal.URL + "/x /x\n", rule: "add-internal"},
		"a repository to add":    {dockerfile: evil + "ADD git@github.com:a/b.git /x\n", rule: "build-remote"},
		"the names of others":    {dockerfile: "FROM slipway.local/sother/docker.io/library/x\n", rule: "registry-host"},
		"an internal registry":   {dockerfile: "FROM scratch\nCOPY --from=127.0.0.1:5000/x / /\n", rule: "registry-host"},
		"a context of theirs":    {dockerfile: "FROM ground\n", change: opt("context:ground", "docker-image://slipway.local/sother/docker.io/library/x"), rule: "registry-host"},
		"a context on the host":  {dockerfile: "FROM ground\n", change: opt("context:ground", "docker-image://127.0.0.1:5000/x"), rule: "registry-host"},
		"a context for a stage":  {dockerfile: "FROM scratch AS one\nFROM one\n", change: opt("context:one", "docker-image://127.0.0.1:5000/x"), rule: "registry-host"},
		"a context for a folder": {dockerfile: "FROM scratch\nCOPY --from=x / /\n", change: opt("context:x", "docker-image://127.0.0.1:5000/x"), rule: "registry-host"},
	} {
		dir := good
		if c.dockerfile != "" {
			dir = folder(t, "Dockerfile", c.dockerfile)
		}
		_, err := r.asBuildx(dir, c.change)
		if err == nil || c.rule != "" && !strings.Contains(err.Error()+r.reports.String(), "["+c.rule+"]") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if asked.Load() != 0 {
		t.Errorf("the internal server was asked %d times", asked.Load())
	}
	if ids := strings.Fields(r.host("images", "--quiet", "--all", "--filter", "label=evil="+r.policy.Token)); len(ids) > 0 {
		t.Errorf("built: %v", ids)
	}
	// The honest twin.
	made, err := r.asBuildx(good, export("moby", "name", "made:1,made:2"))
	if err != nil {
		t.Fatal(err)
	}
	if made[responseName] != "" && made[responseName] != "made:1,made:2" {
		t.Errorf("the client is told of %q", made)
	}
	wants(t, r.docker("image", "inspect", "--format", "{{.RepoTags}}", "made:2"), "made:1", "made:2")
}

// TestGRPCIsTheGuards: what a client says has no effect where the guard decides.
func TestGRPCIsTheGuards(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	before := r.imageID(alpine)
	dir := folder(t, "Dockerfile", "# syntax=evil.example.com/x\nFROM "+alpine+"\nRUN cat /etc/hosts /proc/self/cgroup; hostname # "+r.policy.Token+"\n")
	var told string
	_, err := r.asBuildx(dir, func(s *control.SolveRequest, f *gateway.SolveRequest) {
		s.Exporters = []*control.Exporter{{Type: "moby", Attrs: map[string]string{"name": alpine}}}
		f.Frontend = "gateway.v0"
		maps.Copy(f.FrontendOpt, map[string]string{
			"source": "evil.example.com/x", "cmdline": "", "build-arg:BUILDKIT_SYNTAX": "evil.example.com/x", "build-arg:BUILDKIT_CACHE_MOUNT_NS": "other",
			"build-arg:BUILDKIT_SANDBOX_HOSTNAME": "other", "cgroup-parent": "/evil", "add-hosts": "mirror=6.6.6.6,pother.guard.invalid=127.0.0.1,POTHER.guard.invalid.=127.0.0.1",
			"cache-from": "127.0.0.1:5000/x", "cache-imports": `[{"Type":"gha","Attrs":{"url":"http://127.0.0.1:1"}}]`, "label:slipway.guard": "forged", "label:mine": "1",
		})
		f.CacheImports = []*gateway.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{"ref": "127.0.0.1:5000/x"}}}
		s.Cache.Imports = []*control.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{"ref": "127.0.0.1:5000/x"}}}
	})
	if err != nil {
		t.Fatal(err)
	}
	told = r.reports.String()
	wants(t, told, "evil.example.com/x", "--cache-from is not used")
	if r.imageID(alpine) != before {
		t.Error("the operator's image was replaced")
	}
	labels := r.docker("image", "inspect", "--format", "{{json .Config.Labels}}", alpine)
	wants(t, labels, `"mine":"1"`)
	lacks(t, labels, "forged")
}

// TestGRPCOthers reaches for builds of another job, and for what only the Engine's operator sees.
func TestGRPCOthers(t *testing.T) {
	t.Parallel()
	a := newRig(t, withWait(10*time.Millisecond))
	b := newRig(t, func(o *Options) { o.Images = a.Guard.images })
	dir := folder(t, "Dockerfile", "FROM "+alpine+"\nRUN sleep 600 # "+b.policy.Token+"\n")
	began := make(chan string, 1)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		id, end := b.clientSession("key", dirs(t, map[string]string{dirDockerfile: dir, dirContext: dir}))
		defer end()
		ref := "victim" + id
		conn := b.grpcConn()
		go func() {
			of := grpcmeta.NewOutgoingContext(ctx, grpcmeta.Pairs(buildIDHeader, ref))
			began <- ref
			_, _ = gateway.NewLLBBridgeClient(conn).Solve(of, &gateway.SolveRequest{Frontend: frontendName, Evaluate: true, AllowResultReturn: true})
		}()
		_, _ = control.NewControlClient(conn).Solve(ctx, &control.SolveRequest{Ref: ref, Session: id})
	}()
	defer func() {
		cancel()
		<-ended
	}()
	var ref string
	select {
	case ref = <-began:
	case <-ended:
		t.Fatal("the build ended before it began")
	}
	eventually(t, "the build to begin", func() bool { return len(b.buildRefs()) == 1 })
	conn := a.grpcConn()
	engine := gateway.NewLLBBridgeClient(conn)
	for _, id := range append(b.buildRefs(), ref) {
		of := grpcmeta.NewOutgoingContext(t.Context(), grpcmeta.Pairs(buildIDHeader, id))
		if _, err := engine.Ping(of, &gateway.PingRequest{}); err == nil {
			t.Errorf("the build %s of another job answers", id)
		}
		if _, err := engine.Return(of, &gateway.ReturnRequest{}); err == nil {
			t.Errorf("the build %s of another job was ended", id)
		}
		s, err := control.NewControlClient(conn).Status(t.Context(), &control.StatusRequest{Ref: id})
		if err == nil {
			if m, err := s.Recv(); err == nil {
				t.Errorf("the state of another job's build: %v", m)
			}
		}
	}
	if len(b.buildRefs()) != 1 {
		t.Error("the other job's build is gone")
	}
	usage, err := control.NewControlClient(conn).DiskUsage(t.Context(), &control.DiskUsageRequest{})
	if err != nil || len(usage.Record) > 0 {
		t.Errorf("the build cache is shown: %v %v", usage, err)
	}
	workers, err := control.NewControlClient(conn).ListWorkers(t.Context(), &control.ListWorkersRequest{})
	if err != nil || len(workers.Record) == 0 {
		t.Fatal(workers, err)
	}
	lacks(t, fmt.Sprint(workers), "hostname")
	header := grpcmeta.NewOutgoingContext(t.Context(), grpcmeta.Pairs(buildIDHeader, ref))
	for name, ask := range map[string]func() error{
		"image": func() error {
			_, err := engine.ResolveImageConfig(header, &gateway.ResolveImageConfigRequest{Ref: alpine})
			return err
		},
		"source": func() error {
			_, err := engine.ResolveSourceMeta(header, &gateway.ResolveSourceMetaRequest{Source: &pb.SourceOp{Identifier: "docker-image://" + alpine}})
			return err
		},
		"container": func() error {
			_, err := engine.NewContainer(header, &gateway.NewContainerRequest{ContainerID: "x"})
			return err
		},
		"process": func() error {
			s, err := engine.ExecProcess(header)
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"history": func() error {
			_, err := control.NewControlClient(conn).UpdateBuildHistory(t.Context(), &control.UpdateBuildHistoryRequest{Ref: ref, Delete: true})
			return err
		},
		"unknown": func() error {
			return conn.Invoke(t.Context(), "/evil.Service/Do", &control.InfoRequest{}, &control.InfoResponse{})
		},
	} {
		if err := ask(); err == nil || !strings.Contains(err.Error(), "[grpc-method]") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// buildRefs are the references that the Engine has for the job's builds.
func (r *rig) buildRefs() []string {
	l := r.Guard.grpcBuilds
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for _, b := range l.byRef {
		out = append(out, b.id)
	}
	return out
}

// TestGRPCPanic: a defect that a call meets is an error of that call, and of nothing else.
func TestGRPCPanic(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.grpcBuilds.mu.Lock()
	r.grpcBuilds.byRef["defect"] = &grpcBuild{} // without all that a build has
	r.grpcBuilds.mu.Unlock()
	conn := r.grpcConn()
	client := control.NewControlClient(conn)
	s, err := client.Status(t.Context(), &control.StatusRequest{Ref: "defect"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Recv()
	_, unary := gateway.NewLLBBridgeClient(conn).Ping(grpcmeta.NewOutgoingContext(t.Context(), grpcmeta.Pairs(buildIDHeader, "defect")), &gateway.PingRequest{})
	for _, err := range []error{err, unary} {
		if status.Code(err) != codes.Internal {
			t.Error(err)
		}
	}
	if _, err := client.ListWorkers(t.Context(), &control.ListWorkersRequest{}); err != nil {
		t.Error(err)
	}
	wants(t, r.audit.String(), "level=ERROR", "gRPC /moby.buildkit.v1.Control/Status", "grpc_control.go")
}

// TestGRPCFlood: a job has only so many calls at once, and can build again when they have ended.
func TestGRPCFlood(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var refused atomic.Int32
	for range 4 { // on several connections
		client := control.NewControlClient(r.grpcConn())
		for range maxGRPCCalls / 3 {
			go func() {
				s, err := client.Status(ctx, &control.StatusRequest{Ref: "later"}) // it waits for its build
				if err == nil {
					_, err = s.Recv()
				}
				if status.Code(err) == codes.ResourceExhausted {
					refused.Add(1)
				}
			}()
		}
	}
	eventually(t, "too many calls to be refused", func() bool { return refused.Load() == 4*(maxGRPCCalls/3)-maxGRPCCalls })
	large := make([]byte, maxGRPCMessage)
	cancel()
	eventually(t, "their end", func() bool { return r.Guard.grpc.calls.Load() == 0 })
	conn := r.grpcConn()
	_, err := gateway.NewLLBBridgeClient(conn).Warn(t.Context(), &gateway.WarnRequest{Short: large})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message of more than %d bytes: %v", maxGRPCMessage, err)
	}
	if _, err := r.asBuildx(folder(t, "Dockerfile", "FROM "+alpine+"\nLABEL after=flood\n"), nil); err != nil {
		t.Error(err)
	}
}

// TestGRPCContextKey: BuildKit takes the value of the option that a context's folder is named after for the context's address,
// and would fetch it.
func TestGRPCContextKey(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	// A path that is an address, too.
	const file = "github.com/example/repository"
	dir := folder(t, file, "FROM "+alpine+"\nLABEL a=b\n")
	for _, key := range []string{"filename", "cmdline", "dockerfilekey", "add-hosts", "build-arg:X"} {
		_, err := r.asBuildx(dir, func(_ *control.SolveRequest, f *gateway.SolveRequest) {
			f.FrontendOpt["contextkey"], f.FrontendOpt["filename"], f.FrontendOpt["build-arg:X"] = key, file, "https://127.0.0.1/x.git"
		})
		if err == nil || !strings.Contains(err.Error(), "slipway: the folder's name") {
			t.Errorf("%s: %v", key, err)
		}
	}
	if _, err := r.asBuildx(dir, func(_ *control.SolveRequest, f *gateway.SolveRequest) { f.FrontendOpt["filename"] = file }); err != nil {
		t.Error(err)
	}
}
