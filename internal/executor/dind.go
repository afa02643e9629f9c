package executor

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/slipway-ci/slipway/internal/job"
)

// A Docker-in-Docker as a service starts cold for each job. Where the job can have a guarded socket, that takes its place,
// under its names.

// What becomes of a service that is a Docker-in-Docker.
const (
	dindWarm  = "warm"  // the job's guarded socket takes its place
	dindStart = "start" // it is started as it is written
)

// dindPlan is a Docker-in-Docker that is not started.
type dindPlan struct {
	service string   // as it is written, variables expanded
	names   []string // host names that it has for the job
	certs   []string // folders of the job's container where clients look for certificates
	ports   bool     // its ports are served in the job's container
}

// dindTag is the tag of an image that Docker publishes as a Docker-in-Docker: dind, 27-dind, 26.1.0-dind-alpine3.19,
// dind-rootless.
//
// Docker: https://hub.docker.com/_/docker
var dindTag = regexp.MustCompile(`^(?:.+-)?dind(?:-rootless|-alpine.*)?$`)

// isDind reports whether an image is a Docker-in-Docker: Docker's own, on whatever registry or mirror it is, or one that the
// operator has named.
func (s Settings) isDind(image string) bool {
	if len(s.DindImages) > 0 && matchesAny(s.DindImages, image) {
		return true
	}
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return false
	}
	tagged, ok := named.(reference.Tagged)
	return ok && dindTag.MatchString(tagged.Tag()) && isOfficialDocker(reference.Path(named))
}

// isOfficialDocker reports whether a repository is Docker's own image of that name, or a mirror's copy of it. An image of
// that name in a project's own registry is something else.
func isOfficialDocker(repository string) bool {
	dir, name := path.Split(repository)
	dir = strings.TrimSuffix(dir, "/")
	return name == "docker" && (dir == "" || path.Base(dir) == "library" || strings.HasSuffix(dir, "dependency_proxy/containers"))
}

// warmDind lets the job's socket take the place of a service. A second one is the same daemon under further names.
func (s Settings) warmDind(p *plan, service job.Service) {
	if p.dind == nil {
		p.dind = &dindPlan{service: service.Name, ports: s.Socket == socketGuarded && s.ownNetwork() && !s.Guard.NoPorts}
	}
	for _, name := range serviceNames(service.Name, service.Alias) {
		if !slices.Contains(p.dind.names, name) {
			p.dind.names = append(p.dind.names, name)
		}
	}
	p.warnings = append(p.warnings, s.dindWarnings(service)...)
}

// hasWarmDind reports whether a Docker-in-Docker can be warm here at all.
func (s Settings) hasWarmDind(volumes []volume) bool {
	switch {
	case s.Dind == dindStart, s.Socket == socketOff:
		return false
	case s.Socket == socketRaw:
		return hasSocket(volumes)
	}
	return true
}

// ownNetwork reports whether a job's container has a network namespace of its own: only there nobody else reaches what
// listens on its loopback.
func (s Settings) ownNetwork() bool {
	mode := s.Container.Network
	return s.strict() || mode != "host" && !strings.HasPrefix(mode, "container:")
}

func (s Settings) noPortsReason() string {
	switch {
	case s.Socket != socketGuarded:
		return `socket = "raw" in [runners.slipway]`
	case !s.ownNetwork():
		return fmt.Sprintf("network_mode = %q in [runners.docker]", s.Container.Network)
	}
	return "that needs slipway to run as root"
}

// hostName is what can stand in a hosts file.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})$`)

// serviceNames are the host names of a service: its aliases, and two that follow from its image.
//
// GitLab: registry and path without port and tag, with / as __ and as -.
func serviceNames(image, aliases string) []string {
	var out []string
	add := func(name string) {
		if hostName.MatchString(name) && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	for _, a := range words(aliases) {
		add(a)
	}
	name, _ := splitTag(image)
	parts := strings.Split(name, "/")
	parts[0], _, _ = strings.Cut(parts[0], ":")
	add(strings.Join(parts, "__"))
	add(strings.Join(parts, "-"))
	return out
}

// words are the names in an alias.
func words(aliases string) []string {
	return strings.FieldsFunc(aliases, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
}

// The variables by which clients find a daemon.
const (
	varHost      = "DOCKER_HOST"
	varTLSVerify = "DOCKER_TLS_VERIFY"
	varCertPath  = "DOCKER_CERT_PATH"
	varCertDir   = "DOCKER_TLS_CERTDIR"
)

// defaultCertDir is DOCKER_TLS_CERTDIR of Docker's images if nobody sets it.
const defaultCertDir = "/certs"

// dindNotice tells the job's author what became of the service.
func (p *plan) dindNotice() string {
	return p.dind.service + " is not started: this job has the machine's own Docker, which is warm, through a guarded socket " +
		`(the runner's operator can turn this off: dind = "start" in [runners.slipway])`
}

// setDind gives the job what a Docker-in-Docker would: names, certificates and variables. What the job says itself is left
// as it is wherever that works.
func (s Settings) setDind(p *plan) {
	d := p.dind
	if !hasSocket(p.volumes) {
		p.volumes = append(p.volumes, volume{target: defaultSocket, socket: true})
	}
	if !d.ports {
		p.warnings = append(p.warnings, fmt.Sprintf("%s and its ports do not answer in this job, only the socket does: %s", strings.Join(d.names, ", "), s.noPortsReason()))
	} else {
		d.certs = certFolders(p)
		p.volumes = slices.DeleteFunc(p.volumes, func(v volume) bool { return slices.Contains(d.certs, path.Clean(v.target)) })
	}
	host := p.vars.Get(varHost)
	switch {
	case host == "":
		p.setVariable(varHost, "unix://"+socketTarget(p.volumes))
		p.setVariable(varTLSVerify, "") // it has no meaning there, and clients fail for it
	case d.serves(host):
	case d.means(host):
		p.warnings = append(p.warnings, fmt.Sprintf("DOCKER_HOST is %q, where nothing answers here: it is unix://%s for this job", host, socketTarget(p.volumes)))
		p.setVariable(varHost, "unix://"+socketTarget(p.volumes))
		p.setVariable(varTLSVerify, "")
	}
}

// dindExtraHosts are the lines of the container's hosts file by which the service's names lead to its own loopback.
func (p *plan) dindExtraHosts() []string {
	if p.dind == nil || !p.dind.ports {
		return nil
	}
	var out []string
	for _, name := range p.dind.names {
		if name != "localhost" {
			out = append(out, name+":127.0.0.1")
		}
	}
	return out
}

// means reports whether an address is that of the service.
func (d *dindPlan) means(host string) bool {
	u, err := url.Parse(host)
	return err == nil && u.Scheme != "unix" && (isLoopback(u.Hostname()) || slices.Contains(d.names, u.Hostname()))
}

// serves reports whether an address is one that the job's socket answers at.
func (d *dindPlan) serves(host string) bool {
	u, err := url.Parse(host)
	return err == nil && d.ports && d.means(host) && (u.Scheme == "tcp" || u.Scheme == "http" || u.Scheme == "https") && (u.Port() == "2375" || u.Port() == "2376")
}

func isLoopback(host string) bool { return host == "localhost" || host == "127.0.0.1" || host == "::1" }

func socketTarget(volumes []volume) string {
	for _, v := range volumes {
		if v.socket {
			return path.Clean(v.target)
		}
	}
	return defaultSocket
}

// setVariable overrides a variable of the job.
func (p *plan) setVariable(key, value string) {
	p.vars = slices.DeleteFunc(slices.Clone(p.vars), func(v job.Variable) bool { return v.Key == key })
	p.vars = append(p.vars, job.Variable{Key: key, Value: value, Public: true, Raw: true})
}

// certFolders are where the job looks for the client's certificates: where the image would put them, and where the job's
// variables say. A folder that the job must not have mounted over is left out, with a warning.
func certFolders(p *plan) []string {
	dir := defaultCertDir
	if v, ok := p.vars.Lookup(varCertDir); ok {
		dir = v.Value
	}
	var out []string
	for _, c := range []struct{ key, folder string }{{varCertDir, path.Join(dir, "client")}, {varCertPath, p.vars.Get(varCertPath)}} {
		folder := path.Clean(c.folder)
		if dir == "" && c.key == varCertDir || c.folder == "" || slices.Contains(out, folder) {
			continue
		}
		if !p.mountable(folder) {
			p.warnings = append(p.warnings, fmt.Sprintf("%s: %s is no folder for Docker's certificates; /certs is", c.key, folder))
			continue
		}
		out = append(out, folder)
	}
	return out
}

// systemPlaces are where nothing of a job's own choice is mounted.
var systemPlaces = []string{"/proc", "/sys", "/dev", "/etc", "/bin", "/sbin", "/lib", "/lib64", "/usr", "/.slipway"}

// mountable reports whether certificates may be mounted at a path of the job's container: an absolute one that hides
// nothing else.
func (p *plan) mountable(folder string) bool {
	if !path.IsAbs(folder) || folder == "/" || strings.ContainsAny(folder, ":\x00\n") {
		return false
	}
	taken := []string{p.dir, p.tempDir, objectsDir, modulesDir, gitDir}
	for _, v := range p.volumes {
		if path.Clean(v.target) != folder {
			taken = append(taken, path.Clean(v.target))
		}
	}
	for _, t := range taken {
		if isBelow(t, folder) || isBelow(folder, t) {
			return false
		}
	}
	return !slices.ContainsFunc(systemPlaces, func(dir string) bool { return folder == dir || isBelow(folder, dir) })
}
