package executor

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/internal/job"
)

// daemonFlag is a flag that the command of a Docker-in-Docker gives to its daemon.
type daemonFlag struct{ name, value string }

// shortFlags are the daemon's flags with one letter.
var shortFlags = map[string]string{"-H": "host", "-D": "debug", "-s": "storage-driver", "-l": "log-level", "-G": "group", "-p": "pidfile", "-b": "bridge"}

// switches are the daemon's flags that take no value after a blank.
var switches = []string{"tls", "tlsverify", "debug", "experimental", "ipv6", "icc", "iptables", "ip6tables", "ip-forward", "ip-masq", "live-restore", "rootless", "selinux-enabled", "userland-proxy", "no-new-privileges", "raw-logs", "init", "no-proxy"}

// daemonFlags reads the flags of a service's entrypoint and command: --flag=value, --flag value, and all of it as one line
// for a shell.
func daemonFlags(service job.Service) []daemonFlag {
	var words []string
	for _, w := range slices.Concat(service.Entrypoint, service.Command) {
		words = append(words, strings.Fields(w)...)
	}
	var out []daemonFlag
	for i := 0; i < len(words); i++ {
		w := words[i]
		name, value, has := strings.Cut(strings.TrimPrefix(w, "--"), "=")
		switch {
		case strings.HasPrefix(w, "--") && name != "":
		case shortFlags[w] != "":
			name, has = shortFlags[w], false
		default:
			continue // the program, or a shell's own words
		}
		if !has && !slices.Contains(switches, name) && i+1 < len(words) && !strings.HasPrefix(words[i+1], "-") {
			i++
			value = words[i]
		}
		out = append(out, daemonFlag{name, strings.Trim(value, `"'`)})
	}
	return out
}

// plainFlags change nothing that a job could notice but its speed, or what the guard does in their place.
var plainFlags = []string{
	"tls", "tlsverify", "tlscacert", "tlscert", "tlskey", "host", "debug", "log-level", "log-format", "log-driver", "log-opt", "storage-driver", "storage-opt",
	"data-root", "exec-root", "pidfile", "group", "mtu", "network-control-plane-mtu", "default-network-opt", "bip", "bridge", "default-address-pool",
	"max-concurrent-downloads", "max-concurrent-uploads", "max-download-attempts", "registry-mirror", "shutdown-timeout", "live-restore", "rootless", "userland-proxy",
	"iptables", "ip6tables", "ip-forward", "ip-masq", "icc", "cgroup-parent", "exec-opt", "containerd", "containerd-namespace", "raw-logs", "metrics-addr", "init", "swarm-default-advertise-addr",
}

// dindWarnings says what the flags of a Docker-in-Docker would have changed that the machine's Engine does not have.
func (s Settings) dindWarnings(service job.Service) []string {
	var out []string
	warn := func(f daemonFlag, format string, args ...any) {
		text := "--" + f.name
		if f.value != "" {
			text += " " + f.value
		}
		out = append(out, text+" of the Docker-in-Docker has no effect: "+fmt.Sprintf(format, args...))
	}
	for _, f := range daemonFlags(service) {
		switch {
		case slices.Contains(plainFlags, f.name):
		case f.name == "insecure-registry":
			if !isInsecure(s.Guard.Machine.InsecureRegistries, f.value) {
				warn(f, "the machine's Engine does not have that registry in its own list (the operator can add it to insecure-registries of daemon.json)")
			}
		case f.name == "experimental":
			if f.value != "false" && !s.Guard.Machine.Experimental {
				warn(f, "the machine's Engine has no experimental features")
			}
		case f.name == "dns" || f.name == "dns-search" || f.name == "dns-opt":
			warn(f, "containers have the names of the machine's Engine (docker run --%s sets others)", f.name)
		case f.name == "add-runtime" || f.name == "default-runtime":
			warn(f, "containers run in the runtime of the machine's Engine")
		case f.name == "default-ulimit":
			warn(f, "docker run --ulimit and docker build --ulimit set them")
		default:
			warn(f, "the machine's Engine is as its operator has set it up")
		}
	}
	return out
}

// isInsecure reports whether the Engine speaks with a registry without TLS.
func isInsecure(list []string, registry string) bool {
	registry = strings.TrimPrefix(registry, "http://")
	if slices.Contains(list, registry) {
		return true
	}
	host := registry
	if h, _, err := net.SplitHostPort(registry); err == nil {
		host = h
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(list, func(text string) bool {
		block, err := netip.ParsePrefix(text)
		return err == nil && block.Contains(a)
	})
}
