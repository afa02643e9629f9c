package docker

import (
	"context"
	"fmt"
	"net"
	"path"
	"regexp"
	"slices"
	"strconv"

	"github.com/moby/moby/client"
)

// Machine is what the Engine says of the machine that it is on.
type Machine struct {
	ID               string   // of the Engine
	DataRoot         string   // where its images, volumes and containers lie
	CgroupDriver     string   // cgroupfs, systemd or none
	StorageDriver    string   // overlay2, or the name of containerd's snapshotter
	Warnings         []string // of the Engine, for people
	ContainerdSocket string   // "" if an older Engine does not say
	// LayersDir is where its images' layers and its build cache lie; "" = in a folder of containerd's, which says nothing of it.
	LayersDir string
	// ArchivesDir is where containerd has what it pulled; "" = nobody knows.
	ArchivesDir string
	// LayersUnknown says why LayersDir is not known.
	LayersUnknown error
	// InsecureRegistries are those that it speaks with without TLS: blocks of addresses (CIDR), and host[:port].
	InsecureRegistries []string
	Experimental       bool
	SwapLimit          bool // its kernel can limit swap
	// ContainerdImages: images and the build cache are containerd's, not in a store of the Engine's own.
	ContainerdImages bool
	// MapsUsers: the users of containers have other numbers on the machine (userns-remap, or an Engine that is not root).
	MapsUsers bool
	// FirstUser and FirstGroup are root's of the containers then; 0 = nobody knows.
	FirstUser, FirstGroup int
}

// mappedFolder is how an Engine names its folder for the users that it maps to.
var mappedFolder = regexp.MustCompile(`^([1-9][0-9]{0,9})\.([1-9][0-9]{0,9})$`)

// MappedUsers is how many users of a container an Engine has others for, as useradd and Docker's documentation give them to it.
const MappedUsers = 65536

// OnMachine is whom a user of a container is on the machine; false if nobody knows. usernsMode is the container's.
func (m Machine) OnMachine(usernsMode string, uid, gid int) (int, int, bool) {
	switch {
	case !m.MapsUsers || usernsMode == "host":
		return uid, gid, true
	case m.FirstUser == 0 || uid >= MappedUsers || gid >= MappedUsers:
		return 0, 0, false
	}
	return m.FirstUser + uid, m.FirstGroup + gid, true
}

// Machine asks the Engine about its machine.
func (e *Engine) Machine(ctx context.Context) (Machine, error) {
	r, err := e.api.Info(ctx, client.InfoOptions{})
	if err != nil {
		return Machine{}, fmt.Errorf("ask the Engine about its machine: %w", err)
	}
	m := Machine{ID: r.Info.ID, DataRoot: r.Info.DockerRootDir, CgroupDriver: r.Info.CgroupDriver, StorageDriver: r.Info.Driver, Warnings: r.Info.Warnings}
	if r.Info.Containerd != nil {
		m.ContainerdSocket = r.Info.Containerd.Address
	}
	m.Experimental, m.SwapLimit = r.Info.ExperimentalBuild, r.Info.SwapLimit
	remaps := slices.Contains(r.Info.SecurityOptions, "name=userns")
	m.MapsUsers = remaps || slices.Contains(r.Info.SecurityOptions, "name=rootless")
	if first := mappedFolder.FindStringSubmatch(path.Base(m.DataRoot)); remaps && first != nil {
		m.FirstUser, _ = strconv.Atoi(first[1]) // it has digits only
		m.FirstGroup, _ = strconv.Atoi(first[2])
	}
	m.ContainerdImages = slices.Contains(r.Info.DriverStatus, [2]string{"driver-type", "io.containerd.snapshotter.v1"})
	m.LayersDir = m.DataRoot
	if m.ContainerdImages {
		m.LayersDir, m.ArchivesDir, m.LayersUnknown = e.containerdFolders(ctx, m)
	}
	if c := r.Info.RegistryConfig; c != nil {
		for _, block := range c.InsecureRegistryCIDRs {
			m.InsecureRegistries = append(m.InsecureRegistries, block.String())
		}
		for host, index := range c.IndexConfigs {
			if index != nil && !index.Secure {
				m.InsecureRegistries = append(m.InsecureRegistries, host)
			}
		}
	}
	return m, nil
}

// Dial opens a connection of its own to the Engine, as this one is made: over its socket, or TCP with TLS.
func (e *Engine) Dial(ctx context.Context) (net.Conn, error) {
	conn, err := e.api.Dialer()(ctx)
	if err != nil {
		return nil, connectError(e.host, err)
	}
	return conn, nil
}
