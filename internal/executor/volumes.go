package executor

import (
	"cmp"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/slipway-ci/slipway/internal/docker"
	"github.com/slipway-ci/slipway/internal/job"
)

// volume is one entry of [runners.docker] volumes, understood.
type volume struct {
	target string
	bind   string // docker run -v's form; "" for the others
	named  string // a volume of ours, made if it is not there
	folder string // a folder of ours on the host, made if it is not there
	socket bool   // the Engine's socket: bind is set if it is given raw

	source   string // of bind: a path on the host, or the name of a volume of the operator's; "" = anonymous
	readOnly bool
}

// layout says where the workspace lies when the operator mounts a host folder as builds_dir.
type layout struct {
	hostRoot string // "" = Slipway's state folder
	below    string // between builds_dir and the project's path, in both places
}

// volumes reads the configured volumes.
//
// GitLab: "/path" is a cache volume of the runner, project and slot; on a builds_dir shared through a bind, projects lie
// below <short token>/<concurrent project id>.
func (s Settings) volumes(slot Slot, spec *job.Spec) (layout, []volume, error) {
	var l layout
	var out []volume
	if err := s.checkFolder("cache_dir", s.VolumeHostDir); err != nil {
		return l, nil, err
	}
	for _, text := range s.Volumes {
		source, target, mode, err := splitVolume(text)
		if err != nil {
			return l, nil, err
		}
		switch {
		case source == "" && path.Clean(target) == path.Clean(s.BuildsDir):
			// Ours to lay out: the workspace is mounted below it.
		case source == "" && path.Clean(target) == path.Clean(s.CacheDir) && !s.DisableCache:
			out = append(out, volume{target: target, folder: s.cacheFolder(spec)})
		case source == "":
			v := s.cacheVolume(slot, spec, target)
			if err := s.checkDriverOptions(); v.named != "" && err != nil {
				return l, nil, err
			}
			out = append(out, v)
		case path.Clean(target) == path.Clean(s.BuildsDir) && path.IsAbs(source):
			if err := s.checkFolder("volumes", source); err != nil {
				return l, nil, err
			}
			l = s.sharedLayout(source, slot)
		case s.isSocket(source):
			switch s.Socket {
			case socketOff:
			case socketRaw:
				out = append(out, volume{target: target, bind: source + ":" + target + suffix(mode), source: source, socket: true})
			default:
				out = append(out, volume{target: target, socket: true})
			}
		default:
			v := volume{target: target, bind: source + ":" + target + suffix(mode), source: source, readOnly: isReadOnly(mode)}
			if err := s.checkSource(text, source, v.readOnly); err != nil {
				return l, nil, err
			}
			out = append(out, v)
		}
	}
	return l, out, nil
}

// checkDriverOptions refuses volumes that are a place of this machine: a job could reach, or lead the next one to, what is
// not its own.
func (s Settings) checkDriverOptions() error {
	o := s.Container.Extras.VolumeOptions
	if kind := o["type"]; !s.strict() || kind == "tmpfs" || kind == "nfs" || kind == "nfs4" || kind == "cifs" || o["device"] == "" && kind == "" && o["o"] == "" {
		return nil
	}
	return configurationError(`write the folder into volumes ("/srv/cache:/cache"), or trust_config = true in [runners.slipway], and every job owns the machine`,
		"volume_driver_ops in [runners.docker] makes volumes of type %q, which may be any place of this machine", o["type"])
}

// sharedLayout puts each slot's projects into a folder of its own below one of the host's.
func (s Settings) sharedLayout(root string, slot Slot) layout {
	return layout{hostRoot: root, below: path.Join(containerName(s.ShortToken), strconv.Itoa(slot.ProjectID))}
}

// CheckVolumes says what is wrong with the configured volumes whatever the job. The error is a *job.Error with a hint.
func (s Settings) CheckVolumes() error {
	if s.Account != nil {
		return nil
	}
	_, _, err := s.volumes(Slot{}, &job.Spec{})
	return err
}

// checkFolder refuses a folder of the host, in which jobs have folders of their own, if jobs may write to it as a whole.
func (s Settings) checkFolder(key, dir string) error {
	if !s.strict() || dir == "" {
		return nil
	}
	if outer := s.writableAround(readMounts(), dir, true); outer != "" {
		return configurationError("put the two side by side; or write trust_config = true in [runners.slipway], and every job owns the machine",
			"%s of [runners.docker] has the folders of jobs in %s, where volume %q lets each job put a link to anywhere in their stead", key, dir, outer)
	}
	return nil
}

// ownDirs are the folders of ours on the host, as the container sees them.
func (p *plan) ownDirs() []string {
	dirs := append(p.sourceDirs(), p.tempDir)
	for _, v := range p.volumes {
		if v.folder != "" {
			dirs = append(dirs, v.target)
		}
	}
	return dirs
}

// sourceDirs are those that the sources are put into.
func (p *plan) sourceDirs() []string {
	dirs := []string{p.dir}
	if p.source.request.GitDir != "" {
		dirs = append(dirs, gitDir)
	}
	return dirs
}

// splitVolume reads source:target:mode, target alone, or target with a mode.
func splitVolume(text string) (source, target, mode string, err error) {
	parts := strings.Split(text, ":")
	switch {
	case len(parts) == 1:
		target = parts[0]
	case len(parts) == 2 && !path.IsAbs(parts[1]) && path.IsAbs(parts[0]):
		target, mode = parts[0], parts[1] // GitLab: "/path:ro" has no source
	case len(parts) == 2:
		source, target = parts[0], parts[1]
	case len(parts) == 3:
		source, target, mode = parts[0], parts[1], parts[2]
	default:
		return "", "", "", configurationError("correct `volumes` in [runners.docker]", "volume %q has too many colons", text)
	}
	if !path.IsAbs(target) {
		return "", "", "", configurationError("correct `volumes` in [runners.docker]", "volume %q has no absolute path in the container", text)
	}
	return source, target, mode, nil
}

func isReadOnly(mode string) bool { return slices.Contains(strings.Split(mode, ","), "ro") }

func suffix(mode string) string {
	if mode == "" {
		return ""
	}
	return ":" + mode
}

// cacheFolder is where cache_dir lies on the host: one for the project, another for its protected refs.
func (s Settings) cacheFolder(spec *job.Spec) string {
	return filepath.Join(s.StateDir, "cache", s.projectKey(spec)+protectedSuffix(spec))
}

func (s Settings) cacheVolume(slot Slot, spec *job.Spec, target string) volume {
	if s.DisableCache {
		return volume{target: target, bind: target} // anonymous: it goes with the container
	}
	sum := md5.Sum([]byte(target)) // a name, not a secret
	name := hex.EncodeToString(sum[:]) + protectedSuffix(spec)
	owner := fmt.Sprintf("%s-concurrent-%d", s.projectKey(spec), slot.ProjectID)
	if s.VolumeHostDir != "" {
		return volume{target: target, folder: filepath.Join(s.VolumeHostDir, owner, name)}
	}
	return volume{target: target, named: "slipway-" + owner + "-cache-" + name}
}

// projectKey names a project of one GitLab, for this runner.
func (s Settings) projectKey(spec *job.Spec) string {
	sum := sha256.Sum256([]byte(s.ServerURL + "\n" + s.ShortToken + "\n" + s.SystemID))
	return fmt.Sprintf("%s-project-%d", hex.EncodeToString(sum[:6]), spec.JobInfo.ProjectID)
}

// protectedSuffix keeps what jobs of protected refs store from those of others.
func protectedSuffix(spec *job.Spec) string {
	if spec.GitInfo.IsProtected() {
		return "-protected"
	}
	return ""
}

// isSocket reports whether a path on the host is an Engine's socket, by whatever name. The usual place counts also where
// the runner's own Engine is at another one: it would own the machine as well.
func (s Settings) isSocket(source string) bool {
	return path.IsAbs(source) && (sameFile(source, s.engineSocket()) || sameFile(source, defaultSocket))
}

// defaultSocket is where an Engine has its socket unless it is told otherwise.
var defaultSocket = strings.TrimPrefix(docker.DefaultHost, "unix://")

func (s Settings) engineSocket() string { return cmp.Or(s.EngineSocket, defaultSocket) }

func hasSocket(volumes []volume) bool {
	for _, v := range volumes {
		if v.socket {
			return true
		}
	}
	return false
}
