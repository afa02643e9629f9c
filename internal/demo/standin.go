package demo

import _ "embed" // the entrypoint of the docker stand-in

// The names that the article's pipeline and Dockerfile use, and that stand-ins replace.
const (
	alpineName = "alpine"
	dockerName = "docker:20.10.7"
)

//go:embed docker-entrypoint.sh
var dockerEntrypoint []byte

// Alpine is the stand-in for the image alpine: this machine's busybox in a minimal root file system.
func Alpine() Recipe {
	return Recipe{
		Applets: true,
		Files: map[string]File{
			"/etc/group":      {Content: []byte("root:x:0:\nnogroup:x:65534:\n")},
			"/etc/os-release": {Content: []byte("ID=slipway-stand-in\nPRETTY_NAME=\"busybox, in place of alpine\"\n")},
			"/etc/passwd": {Content: []byte("root:x:0:0:root:/root:/bin/sh\n" +
				"nobody:x:65534:65534:nobody:/:/sbin/nologin\n")},
			"/dev/": {}, "/home/": {}, "/proc/": {}, "/run/": {}, "/sys/": {}, "/var/": {},
			"/root/":    {Mode: 0o700},
			"/tmp/":     {Mode: 0o1777},
			"/var/tmp/": {Mode: 0o1777},
			"/var/run":  {Link: "/run"},
		},
		Cmd: []string{"/bin/sh"},
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	}
}

// DockerClient is the stand-in for the image docker:20.10.7: Alpine with this machine's docker client, and with an
// entrypoint that behaves as the official image's.
func DockerClient() Recipe {
	r := Alpine()
	r.Programs = map[string]string{"/usr/local/bin/docker": "docker"}
	r.Files["/usr/local/bin/docker-entrypoint.sh"] = File{Mode: 0o755, Content: dockerEntrypoint}
	r.Files["/certs/client/"] = File{Mode: 0o1777}
	r.Env = append(r.Env, "DOCKER_TLS_CERTDIR=/certs")
	r.Entrypoint = []string{"docker-entrypoint.sh"}
	r.Cmd = []string{"sh"}
	return r
}
