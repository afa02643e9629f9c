package docker

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
)

// While another caller makes a network, the Engine refuses ours before it shows theirs.
const (
	bridgeTries = 600
	bridgePause = 100 * time.Millisecond
)

// EnsureBridge makes sure of a bridge network of that name on which containers cannot reach each other, and says
// whether it made it. Several callers at once are safe.
func (e *Engine) EnsureBridge(ctx context.Context, name string, labels map[string]string, o NetworkOptions) (made bool, err error) {
	for try := 1; ; try++ {
		n, err := e.api.NetworkInspect(ctx, name, client.NetworkInspectOptions{})
		if err == nil {
			return false, checkBridge(n.Network.Network)
		}
		if !IsNotFound(err) {
			return false, fmt.Errorf("inspect network %s: %w", name, err)
		}
		_, err = e.createBridge(ctx, name, labels, o, map[string]string{icc: "false", "com.docker.network.bridge.name": name})
		if err == nil {
			return true, nil
		}
		if taken := errdefs.IsConflict(err) || errdefs.IsPermissionDenied(err); !taken || try == bridgeTries {
			return false, fmt.Errorf("create network %s: %w", name, err)
		}
		select {
		case <-time.After(bridgePause):
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// NetworkOptions are what a network for jobs may differ in.
type NetworkOptions struct {
	MTU  int  // bytes; 0 = that of the Engine's own bridge
	IPv6 bool // with addresses of IPv6, too
}

// CreateNetwork makes a bridge network on which containers find each other by their names, and returns its ID.
func (e *Engine) CreateNetwork(ctx context.Context, name string, labels map[string]string, o NetworkOptions) (id string, err error) {
	if id, err = e.createBridge(ctx, name, labels, o, map[string]string{}); err != nil {
		return "", fmt.Errorf("create network %s: %w", name, err)
	}
	return id, nil
}

func (e *Engine) createBridge(ctx context.Context, name string, labels map[string]string, o NetworkOptions, options map[string]string) (id string, err error) {
	mtu := strconv.Itoa(o.MTU)
	if o.MTU == 0 {
		if mtu, err = e.bridgeMTU(ctx); err != nil {
			return "", err
		}
	}
	if mtu != "" {
		options[driverMTU] = mtu
	}
	// Old Engines do not filter IPv6, so it is off unless it is wanted, whatever their default.
	made, err := e.api.NetworkCreate(ctx, name, client.NetworkCreateOptions{Driver: "bridge", EnableIPv6: &o.IPv6, Labels: labels, Options: options})
	return made.ID, err
}

// bridgeMTU is the MTU of the Engine's own bridge, "" where nobody set one. An Engine whose operator had to set it (mtu in
// daemon.json), because the machine's network takes no larger packets, gives it to no other network by itself.
func (e *Engine) bridgeMTU(ctx context.Context) (string, error) {
	n, err := e.api.NetworkInspect(ctx, "bridge", client.NetworkInspectOptions{})
	if err != nil && !IsNotFound(err) { // there is none with "bridge": "none"
		return "", fmt.Errorf("inspect network bridge: %w", err)
	}
	if mtu := n.Network.Options[driverMTU]; mtu != usualMTU {
		return mtu, nil
	}
	return "", nil
}

const (
	driverMTU = "com.docker.network.driver.mtu"
	usualMTU  = "1500"
)

// IsNoAddresses reports whether a network could not be made because all address ranges of the Engine are in use.
func IsNoAddresses(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "non-overlapping IPv4 address pool") || strings.Contains(err.Error(), "predefined address pools have been fully subnetted"))
}

// IsNoIPv6 reports whether a network could not be made because the Engine has no address ranges of IPv6.
func IsNoIPv6(err error) bool {
	return err != nil && strings.Contains(err.Error(), "IPv6 address pool")
}

// IsNoNetwork reports whether a container could not be started because its network is gone.
func IsNoNetwork(err error) bool {
	return IsNotFound(err) && strings.Contains(err.Error(), "network")
}

const icc = "com.docker.network.bridge.enable_icc"

// checkBridge refuses somebody else's network of our name: on it jobs could reach each other.
func checkBridge(n network.Network) error {
	if n.Driver != "bridge" || n.Options[icc] != "false" {
		return fmt.Errorf("network %q exists, but lets containers reach each other; remove it: docker network rm %s", n.Name, n.Name)
	}
	return nil
}

// Networks lists the networks that carry the label ("key" or "key=value").
func (e *Engine) Networks(ctx context.Context, label string) ([]Object, error) {
	list, err := e.api.NetworkList(ctx, client.NetworkListOptions{Filters: make(client.Filters).Add("label", label)})
	if err != nil {
		return nil, fmt.Errorf("list networks: %w", err)
	}
	var out []Object
	for _, n := range list.Items {
		out = append(out, Object{n.Name, n.Labels})
	}
	return out, nil
}

// DeleteNetwork removes a network that nobody is on. One that is gone is no error.
func (e *Engine) DeleteNetwork(ctx context.Context, name string) error {
	if _, err := e.api.NetworkRemove(ctx, name, client.NetworkRemoveOptions{}); err != nil && !IsNotFound(err) {
		return fmt.Errorf("remove network %s: %w", name, err)
	}
	return nil
}

// RemoveNetwork removes a network; one that is gone or still in use is no error.
func (e *Engine) RemoveNetwork(ctx context.Context, name string) error {
	_, err := e.api.NetworkRemove(ctx, name, client.NetworkRemoveOptions{})
	if err != nil && !IsNotFound(err) && !errdefs.IsPermissionDenied(err) && !errdefs.IsConflict(err) {
		return fmt.Errorf("remove network %s: %w", name, err)
	}
	return nil
}

// FindNetwork fails if the Engine has no network of that name; modes (host, none, container:…) are none.
func (e *Engine) FindNetwork(ctx context.Context, name string) error {
	if !container.NetworkMode(name).IsUserDefined() {
		return nil
	}
	if _, err := e.api.NetworkInspect(ctx, name, client.NetworkInspectOptions{}); err != nil {
		return fmt.Errorf("inspect network: %w", err)
	}
	return nil
}

// BridgeICC reports whether containers on the Engine's own bridge, docker0, reach each other.
func (e *Engine) BridgeICC(ctx context.Context) (bool, error) {
	n, err := e.api.NetworkInspect(ctx, "bridge", client.NetworkInspectOptions{})
	if err != nil {
		return false, fmt.Errorf("inspect network bridge: %w", err)
	}
	return n.Network.Options[icc] != "false", nil
}
