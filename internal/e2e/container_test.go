package e2e

import (
	"crypto/rand"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
)

func named(list []docker.Object, name string) bool {
	for _, o := range list {
		if o.Name == name {
			return true
		}
	}
	return false
}

// TestContainerSettings: what [runners.docker] says of containers is seen from inside.
func TestContainerSettings(t *testing.T) {
	t.Parallel()
	r := newRig(t, dockerKeys(`memory = "64m"
    memory_swap = "-1"
    memory_reservation = "32m"
    cpus = "0.5"
    cpu_shares = 512
    cpuset_cpus = "0"
    shm_size = 1048576
    oom_score_adjust = 500
    hostname = "job-host"
    extra_hosts = ["registry.test:192.0.2.7"]
    cap_drop = ["MKNOD"]
    cap_add = ["SYS_NICE"]
    group_add = ["1234"]
    security_opt = ["no-new-privileges"]
    devices = ["/dev/null:/dev/second-null"]
  [runners.docker.sysctls]
    "net.ipv4.ip_default_ttl" = "33"
  [runners.docker.ulimit]
    nofile = "333:444"
  [runners.docker.tmpfs]
    "/scratch" = "rw,size=1m,mode=1777"
  [runners.docker.container_labels]
    team = "ci-$CI_PROJECT_NAME"`))
	j := r.enqueue(spec(
		"cd /sys/fs/cgroup",
		"echo memory $(cat memory/memory.limit_in_bytes memory.max 2>/dev/null)",
		"echo reservation $(cat memory/memory.soft_limit_in_bytes memory.low 2>/dev/null)",
		"echo quota $(cat cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 cpu.max)",
		"sed -n 's/^Cpus_allowed_list:./on processors /p' /proc/self/status",
		"echo shm $(df -k /dev/shm | awk 'END { print $2 }')",
		"echo adjust $(cat /proc/self/oom_score_adj)",
		"echo host $(hostname)",
		"grep registry.test /etc/hosts | tr '\t' ' '",
		"sed -n 's/^CapEff:.//p' /proc/self/status",
		"echo groups $(id -G)",
		"sed -n 's/^NoNewPrivs:./no new privileges /p' /proc/self/status",
		"test -c /dev/second-null && echo a second null",
		"echo ttl $(cat /proc/sys/net/ipv4/ip_default_ttl)",
		"echo files $(ulimit -n) $(ulimit -Hn)",
		"grep /scratch /proc/mounts",
		"cd $CI_PROJECT_DIR; echo labels", untilTold,
	))
	r.until(j, "\nlabels\n")
	for _, c := range r.containers(j) {
		if got := c.Labels["team"]; got != "ci-demo" {
			t.Errorf("the label is %q", got)
		}
	}
	// What a machine may not show from within.
	const format = "{{with .HostConfig}}{{.MemorySwap}} {{.CpuShares}} {{.CpusetCpus}}{{end}}"
	if got := strings.TrimSpace(r.raw("inspect", "--format", format, r.jobContainer(j))); got != "-1 512 0" {
		t.Errorf("%q", got)
	}
	r.tell(j)
	o, log := r.end(j)
	if o.State != job.Success {
		t.Fatalf("job ended as %+v:\n%s", o, log)
	}
	wants(t, log, "\nmemory 67108864\n", "\nreservation 33554432\n", "\nquota 50000\n", "\non processors 0\n", "\nshm 1024\n", "\nadjust 500\n", "\nhost job-host\n",
		"\n192.0.2.7 registry.test\n", "\n00000000a08405fb\n", " 1234\n", "\nno new privileges 1\n", "\na second null\n",
		"\nttl 33\n", "\nfiles 333 444\n", "tmpfs /scratch tmpfs rw,", "size=1024k")
}

// TestGPUs: the Engine is asked for them. This machine has none, which it says, in words of its age.
func TestGPUs(t *testing.T) {
	t.Parallel()
	words := regexp.MustCompile(`could not select device driver "" with capabilities: \[\[gpu\]\]|failed to discover GPU vendor from CDI`)
	refused := func(r *rig, s *job.Spec) string {
		return words.ReplaceAllString(r.fails(job.SystemFailure, 0, s), "NO GPU")
	}
	wants(t, refused(newRig(t, dockerKeys(`gpus = "device=0"`)), spec("echo never")), "NO GPU")
	wants(t, refused(newRig(t, dockerKeys(`service_gpus = "all"`)), withService(spec("echo never"), alpine, "x")), "service "+alpine, "NO GPU")
}

func TestPrivileged(t *testing.T) {
	t.Parallel()
	r := newRig(t, dockerKeys(`privileged = true
    allowed_privileged_images = ["slipway.test/alpine:*"]`))
	const caps = "sed -n 's/^CapEff:./caps /p' /proc/self/status"
	const usual = "\ncaps 00000000a80405fb\n"
	o, log := r.run(spec(caps))
	// A machine that has not all capabilities itself cannot give them.
	if o.State != job.Success && !strings.Contains(log, "unable to apply caps: operation not permitted") {
		t.Errorf("job ended as %+v:\n%s", o, log)
	}
	lacks(t, log, usual)
	wants(t, r.must(job.Success, withImage(spec(caps), r.image(withEntrypoint(exporting)))), usual)
}

func TestNetworkModes(t *testing.T) {
	t.Parallel()
	const interfaces = "echo interfaces $(ls /sys/class/net)"
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		wants(t, newRig(t, dockerKeys(`network_mode = "none"`)).must(job.Success, spec(interfaces)), "\ninterfaces lo\n")
	})
	t.Run("host", func(t *testing.T) {
		t.Parallel()
		wants(t, newRig(t, dockerKeys(`network_mode = "host"`)).must(job.Success, spec(interfaces)), " docker0 ")
	})
	t.Run("bridge with DNS settings", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, dockerKeys(`network_mode = "bridge"
    dns = ["192.0.2.53", "2001:db8::53"]
    dns_search = ["example.test"]`))
		wants(t, r.must(job.Success, spec("cat /etc/resolv.conf")), "search example.test", "nameserver 192.0.2.53", "nameserver 2001:db8::53")
	})
	t.Run("that is not there", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, dockerKeys(`network_mode = "slipway-no-such-network"`))
		log := r.fails(job.SystemFailure, 0, spec("echo never"))
		wants(t, log, "slipway-no-such-network not found")
	})
}

func TestMacAddress(t *testing.T) {
	t.Parallel()
	r := newRig(t, dockerKeys(`mac_address = "02:42:ac:11:22:33"`))
	o, log := r.run(spec("echo mac $(cat /sys/class/net/eth0/address)"))
	if o.State == job.Success {
		wants(t, log, "\nmac 02:42:ac:11:22:33\n")
	} else {
		wants(t, log, "mac_address needs Docker Engine 25.0 or newer") // better than a silent other one
	}
}

// TestInspectedSettings: what no program in the container sees, on the container itself.
func TestInspectedSettings(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	name := "slipway-test-" + strings.ToLower(rand.Text())
	parent := "/slipway-test"
	if strings.TrimSpace(r.raw("info", "--format", "{{.CgroupDriver}}")) == "systemd" {
		parent = "slipwaytest.slice"
	}
	r.raw("run", "--detach", "--name", name, "--volume", "/of-another", alpine, "sleep", "600")
	t.Cleanup(func() { r.raw("rm", "--force", "--volumes", name) })
	settings := newRig(t, dockerKeys(`volumes = ["/builds", "/data"]
    volume_driver = "local"
    volumes_from = ["`+name+`:ro"]
    memory = "64m"
    cpuset_mems = "0"
    oom_kill_disable = true
    cgroup_parent = "`+parent+`"
    device_cgroup_rules = ["c 1:3 rwm"]
    userns_mode = "host"
    runtime = "runc"
    pid_mode = "host"
    ipcmode = "shareable"`))
	j := settings.enqueue(spec("test -d /of-another && echo begun", untilTold))
	settings.until(j, "\nbegun\n")
	const format = `{{with .HostConfig}}{{.CpusetMems}} {{.OomKillDisable}} {{.CgroupParent}} {{.DeviceCgroupRules}} {{.UsernsMode}} {{.Runtime}} {{.PidMode}} ` +
		`{{.IpcMode}} {{.VolumesFrom}} {{.VolumeDriver}}{{end}}`
	got := strings.TrimSpace(settings.raw("inspect", "--format", format, settings.jobContainer(j)))
	disabled := "true"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		disabled = "<nil>" // cgroups of version 2 have no such thing, and the Engine leaves it out
	}
	if want := "0 " + disabled + " " + parent + " [c 1:3 rwm] host runc host shareable [" + name + ":ro] local"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	settings.tell(j)
	settings.succeeds(j)

	// Links need the Engine's own bridge, or one of the operator's.
	linked := newRig(t, dockerKeys(`links = ["`+name+`:other"]`))
	wants(t, linked.must(job.Success, spec("ping -c 1 -w 10 other >/dev/null && echo linked")), "\nlinked\n")
}

// TestTimeoutsOfTheOperator: a job that does not get ready in time ends, and says which limit it was.
func TestTimeoutsOfTheOperator(t *testing.T) {
	t.Parallel()
	for key, fails := range map[string]string{"prepare_timeout": "prepare", "get_sources_timeout": "sources"} {
		r := newRig(t, runnerKeys(`  `+key+` = "1ms"`))
		o, log := r.run(r.repository("group/sources", sample).spec("main", "echo never"))
		if o.State != job.Failed || !strings.Contains(log, "1ms") || !strings.Contains(log, fails) {
			t.Errorf("%s: %+v\n%s", key, o, log)
		}
		lacks(t, log, "\nnever")
	}
}
