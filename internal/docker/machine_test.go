package docker

import "testing"

// TestOnMachine: whom a user of a container is on the machine, by what an Engine says of itself.
func TestOnMachine(t *testing.T) {
	t.Parallel()
	const remaps, rootless = `"SecurityOptions":["name=seccomp,profile=default","name=userns"]`, `"SecurityOptions":["name=seccomp,profile=default","name=rootless"]`
	for _, c := range []struct {
		info, mode string
		uid, gid   int
		want       [2]int
		known      bool
	}{
		{`"DockerRootDir":"/var/lib/docker"`, "", 1000, 50, [2]int{1000, 50}, true},
		{`"DockerRootDir":"/srv/5.7"`, "", 1000, 50, [2]int{1000, 50}, true},
		{`"DockerRootDir":"/var/lib/docker/100000.200000",` + remaps, "", 0, 0, [2]int{100000, 200000}, true},
		{`"DockerRootDir":"/var/lib/docker/100000.200000",` + remaps, "", 1000, 50, [2]int{101000, 200050}, true},
		{`"DockerRootDir":"/var/lib/docker/100000.200000",` + remaps, "host", 1000, 50, [2]int{1000, 50}, true},
		{`"DockerRootDir":"/var/lib/docker/100000.200000",` + remaps, "", 65536, 0, [2]int{}, false},
		{`"DockerRootDir":"/var/lib/docker/100000.200000",` + remaps, "", 0, 1 << 30, [2]int{}, false},
		{`"DockerRootDir":"/var/lib/docker",` + remaps, "", 0, 0, [2]int{}, false},
		{`"DockerRootDir":"/var/lib/docker/0.0",` + remaps, "", 0, 0, [2]int{}, false},
		{`"DockerRootDir":"/home/me/.local/share/docker/100000.200000",` + rootless, "", 1000, 0, [2]int{}, false},
	} {
		m, err := engineThatSays(t, "unix", c.info).Machine(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if uid, gid, known := m.OnMachine(c.mode, c.uid, c.gid); uid != c.want[0] || gid != c.want[1] || known != c.known {
			t.Errorf("%s: %d:%d is %d:%d, %t", c.info, c.uid, c.gid, uid, gid, known)
		}
	}
}
