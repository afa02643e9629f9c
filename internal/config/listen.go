package config

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// ListenAddress completes an address of metrics: the port may be missing, an empty address stays empty.
//
// GitLab: port 9252 by default, the one that Prometheus has on its list for the runner.
func ListenAddress(address string) (string, error) {
	const defaultPort = "9252"
	if address == "" {
		return "", nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port, err = net.SplitHostPort(net.JoinHostPort(strings.Trim(address, "[]"), defaultPort))
	}
	if port == "" {
		port = defaultPort
	}
	if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n > 65535 || strings.ContainsAny(host, "/ @") {
		return "", fmt.Errorf("%q is no address to listen on", address)
	}
	return net.JoinHostPort(host, port), nil
}
