package guard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"

	"github.com/slipway-ci/slipway/internal/layercache"
	"github.com/slipway-ci/slipway/internal/ledger"
	"github.com/slipway-ci/slipway/internal/pin"
	"github.com/slipway-ci/slipway/internal/tlsport"
)

// Options are what a guard is made of.
type Options struct {
	// Dial connects to the Engine.
	Dial func(ctx context.Context) (net.Conn, error)
	// Dir is the guard's own folder, absolute. Made if it is not there; nobody but the guard may write to it. The socket
	// and the pinned mounts lie in it, and Close removes it. The Engine must see it under the same path.
	Dir string
	// Socket is where the socket is made instead of in Dir, where it is open to all who get at it. A socket that nobody
	// serves any more is replaced. It is up to the caller to open it to others than its owner.
	Socket string
	Policy Policy
	// Daemon opens the socket also on TCP in the job's container; nil = not.
	Daemon *Daemon
	// Images is the record of whose the Engine's images are, which all guards of an Engine share.
	Images *ledger.Ledger
	// Log gets the audit: one line per decision.
	Log *slog.Logger
	// Denied counts what was refused, by its rule; audited: what would have been. Called from several goroutines; may be nil.
	Denied func(rule string, audited bool)
	// Built counts the instructions that builds have come to; cached: it was done before. Called from several goroutines; may be nil.
	Built func(cached bool)
	// Saved counts what cached instructions saved: the time that they took when they were last done here, and the bytes of their
	// layers. Called from several goroutines; may be nil.
	Saved func(t time.Duration, bytes int64)
	// History remembers the last builds of the project, so that the job's author can be told why a step was not cached; nil = it
	// is not told.
	History *layercache.History
	// Masked are values that the job's log does not show: Report is given lines that are cut.
	Masked []string
	// Report tells the job's author: what was refused, what was left behind. Called from several goroutines; may be nil.
	Report func(line string)

	patience time.Duration // 0 = clientPatience
	wait     time.Duration // 0 = sessionWait
}

// hearNothing takes the place of those who do not want to hear of what the guard does.
func (o *Options) hearNothing() {
	if o.Report == nil {
		o.Report = func(string) {}
	}
	if o.Denied == nil {
		o.Denied = func(string, bool) {}
	}
	if o.Built == nil {
		o.Built = func(bool) {}
	}
	if o.Saved == nil {
		o.Saved = func(time.Duration, int64) {}
	}
}

// SocketName is the file of the job's socket in the guard's folder.
const SocketName = "docker.sock"

// Guard serves one job's socket.
type Guard struct {
	dir        string
	socket     string
	policy     Policy
	images     *ledger.Ledger
	log        *slog.Logger
	report     func(string)
	count      func(rule string, audited bool)
	built      func(cached bool)
	saved      func(t time.Duration, bytes int64)
	history    *layercache.History
	records    pendingRecords // of the history
	masked     []string       // the longest first: one may begin another
	engine     *upstream
	lease      *ledger.Lease // of the job, for the names that it borrows
	objects    *objects
	ports      *ports
	daemon     daemonPorts
	making     sync.Mutex // networks and volumes, one at a time: two calls at once neither exceed a limit nor make one twice
	builds     *builds
	grpc       engineGRPC
	grpcBuilds *grpcBuilds
	room       room
	pins       *pin.Held
	folders    folderVolumes
	sessions   *sessions
	copies     copies
	large      chan struct{} // one for each call at work that takes much memory
	patience   time.Duration // with clients whose archives others wait for
	load       chan struct{} // for the one archive of images that is read at a time
	watching   sync.Once
	router     *router
	server     *http.Server
	listener   net.Listener
	ctx        context.Context // of everything that the guard does for the job; ends with Close
	cancel     context.CancelFunc
	calls      sync.WaitGroup // calls at work, hijacked ones too
	served     chan struct{}
	closing    sync.Once
	closed     error
}

// Open makes the job's socket and serves it until Close. The error says why the Engine or the folder cannot be used.
func Open(ctx context.Context, o Options) (*Guard, error) {
	if err := o.Policy.check(); err != nil {
		return nil, err
	}
	o.hearNothing()
	g := &Guard{
		dir: o.Dir, socket: cmp.Or(o.Socket, filepath.Join(o.Dir, SocketName)), policy: o.Policy, images: o.Images, log: o.Log.With("guard", o.Policy.Token),
		report: o.Report, count: o.Denied, built: o.Built, saved: o.Saved, history: o.History, patience: cmp.Or(o.patience, clientPatience), served: make(chan struct{}), large: make(chan struct{}, maxLarge), load: make(chan struct{}, 1),
	}
	g.masked = slices.DeleteFunc(slices.Clone(o.Masked), func(v string) bool { return v == "" })
	slices.SortFunc(g.masked, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	g.ctx, g.cancel = context.WithCancel(context.WithoutCancel(ctx))
	var err error
	if g.engine, err = newUpstream(ctx, o.Dial); err != nil {
		return nil, err
	}
	if err := g.images.Repair(ctx, imageCalls{g}); err != nil {
		g.log.Warn("what a killed process did to the names of images is not mended yet", "error", err) // nor seen by jobs
	}
	if err := makeDir(o.Dir); err != nil {
		return nil, err
	}
	if o.Daemon != nil {
		if g.daemon.config, err = tlsport.Certificates(g.certificates(), o.Daemon.Names); err != nil {
			return nil, err
		}
	}
	g.objects = newObjects(o.Policy)
	g.ports = newPorts(g)
	g.builds = newBuilds(g)
	wait := cmp.Or(o.wait, sessionWait)
	g.grpcBuilds = newGRPCBuilds(wait)
	g.room.g = g
	g.pins = pin.NewHeld(o.Dir)
	if g.sessions, err = newSessions(wait); err != nil {
		return nil, err
	}
	g.router = newRouter()
	if g.listener, err = listen(g.socket, o.Socket == ""); err != nil {
		return nil, err
	}
	if g.lease, err = g.images.Live(o.Policy.Token); err != nil {
		g.listener.Close()
		return nil, err
	}
	g.server = newServer(g)
	go func() {
		defer close(g.served)
		_ = g.server.Serve(netutil.LimitListener(g.listener, maxConnections))
	}()
	return g, nil
}

// Socket is the path of the job's socket on the host.
func (g *Guard) Socket() string { return g.socket }

// maxConnections bounds what one job may open at once.
const maxConnections = 500

// makeDir makes the guard's folder. The job's users must be able to pass through it to the socket, but not to list it.
func makeDir(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("guard: the folder %q is not absolute", dir)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("make the guard's folder: %w", err)
	}
	return os.Chmod(dir, 0o711)
}

// maxSocketPath is what Linux takes in a socket's address, with its final zero.
const maxSocketPath = 107

func listen(path string, toAll bool) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("guard: the socket's path %s is too long (%d bytes, at most %d): use a shorter state folder", path, len(path), maxSocketPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("make the job's socket: %w", err)
	}
	mode := fs.FileMode(0o666)
	if !toAll {
		mode = 0o600
	}
	if err := Permit(path, mode, -1); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Permit says who may use a socket; group is left as it is if it is below zero. The folder may be a job's, who could put a
// link in the socket's place.
func Permit(socket string, mode fs.FileMode, group int) error {
	fd, err := unix.Open(socket, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the socket to others: %w", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("open the socket to others: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fmt.Errorf("open the socket to others: somebody has put something else at %s", socket)
	}
	open := fmt.Sprintf("/proc/self/fd/%d", fd)
	err = os.Chmod(open, mode)
	if err == nil && group >= 0 {
		err = os.Chown(open, -1, group)
	}
	return err
}

func newServer(g *Guard) *http.Server {
	var only http.Protocols
	only.SetHTTP1(true) // never HTTP/2 by prior knowledge: the Engine would serve gRPC on it
	return &http.Server{
		Handler:           http.HandlerFunc(g.serve),
		Protocols:         &only,
		ReadHeaderTimeout: 30 * time.Second,
		MaxHeaderBytes:    256 << 10,
		// Even OPTIONS * is the table's to answer.
		DisableGeneralOptionsHandler: true,
		BaseContext:                  func(net.Listener) context.Context { return g.ctx },
		ErrorLog:                     slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
}

const (
	callsTimeout  = 5 * time.Second // bounds the wait for calls at work when the guard closes
	removeTimeout = time.Minute     // bounds the removal of what the job left: an Engine with much to do takes its time
)

// Close ends the job's socket: the listener is closed, all streams are cut, calls at work are waited for, and everything
// that the job made is removed from the Engine, but for images that outlive it by design. It may be called again.
// ctx bounds it all; what is left then is removed by the next sweep.
func (g *Guard) Close(ctx context.Context) error {
	g.closing.Do(func() {
		g.cancel()
		_ = g.server.Close()
		<-g.served
		wait, stop := context.WithTimeout(ctx, callsTimeout)
		ended := g.waitForCalls(wait)
		stop()
		ctx, cancel := context.WithTimeout(ctx, removeTimeout)
		defer cancel()
		g.daemon.close()
		g.ports.close()
		pins := g.unpinAll() // before anything is removed: below a pin are the job's files
		cleaned := g.cleanUp(ctx)
		if !ended && g.waitForCalls(ctx) { // an Engine with much to do has made meanwhile what was asked of it before
			cleaned = errors.Join(cleaned, g.unpinAll(), g.cleanUp(ctx))
		}
		g.closed = errors.Join(pins, cleaned, g.removeCertificates(), g.removeDir(), g.lease.End())
		g.closeBuildkit()
		g.engine.close()
	})
	return g.closed
}

// removeDir removes the guard's folder, which is empty by now. It takes nothing along: if a pin should be left, the job's
// files are below it.
func (g *Guard) removeDir() error {
	if err := os.Remove(g.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the guard's folder: %w", err)
	}
	return nil
}

// waitForCalls reports whether all calls have ended before ctx did.
func (g *Guard) waitForCalls(ctx context.Context) bool {
	done := make(chan struct{})
	go func() {
		g.calls.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		g.log.Warn("calls of the job are still at work")
		return false
	}
}

// JobContainer tells the guard which container is the job's own: the job may see and enter it, but not end or change it.
// Its network namespace is where published ports are opened, and it joins the job's networks.
func (g *Guard) JobContainer(id, name string) {
	g.objects.addContainer(&containerRecord{ID: id, Name: name, Job: true})
}

// JobNetwork tells the guard of the network that the job has with its services: the job may put its containers there. It
// stays when the guard closes.
func (g *Guard) JobNetwork(id, name string) {
	g.objects.addNetwork(networkRecord{ID: id, Name: name, Given: true})
}

// JobStarted tells the guard that the job's container was started, for the first time or again: its network namespace is
// a new one.
func (g *Guard) JobStarted(ctx context.Context) error {
	return errors.Join(g.openDaemon(ctx), g.ports.reopen(ctx))
}
