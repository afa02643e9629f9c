package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/spf13/cobra"
)

// unitFlags are the flags of install and uninstall.
//
// GitLab: the same names, but for those of other service managers.
type unitFlags struct {
	service, workingDirectory, user string
	print                           bool
	dir                             string
}

const unitMark = "# Written by slipway install."

// unit is the service. Slipway mounts into the namespaces of containers, and the Engine must see those mounts; jobs of the shell
// executor may use whatever their user may. So nothing here gives the process a mount namespace of its own or takes rights from its
// children.
var unit = template.Must(template.New("unit").Parse(unitMark + ` "systemctl edit {{.Name}}" changes it; slipway uninstall removes it.
[Unit]
Description=Slipway, a GitLab CI runner
Documentation=man:slipway(1)
After=network-online.target docker.service
Wants=network-online.target docker.service

[Service]
Type=notify
ExecStart={{.Command}}
ExecReload=/bin/kill -HUP $MAINPID
# To stop is to let the running jobs end; "systemctl kill -s TERM {{.Name}}" aborts them.
KillSignal=SIGQUIT
KillMode=mixed
TimeoutStartSec=infinity
TimeoutStopSec=infinity
Restart=always
RestartSec=5
WatchdogSec=120
UMask=0022
LimitNOFILE=1048576
TasksMax=infinity
OOMPolicy=continue

[Install]
WantedBy=multi-user.target
`))

func (a *app) installCommand() *cobra.Command {
	var f unitFlags
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Make slipway a service of systemd, and start it",
		Long: `Install writes a unit for systemd, enables it and starts it. To stop or restart the service lets the running jobs end first.

The service runs as root; --user says whom jobs of the shell executor run as.`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return a.install(f) },
	}
	fs := cmd.Flags()
	a.unitFlags(cmd, &f)
	fs.StringVarP(&f.workingDirectory, "working-directory", "d", "", "the folder that the service starts in")
	fs.StringVarP(&f.user, "user", "u", "", "whom jobs of the shell executor run as")
	fs.BoolVar(&f.print, "print", false, "show the unit, and change nothing")
	return cmd
}

func (a *app) uninstallCommand() *cobra.Command {
	var f unitFlags
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Stop the service and remove it; config.toml and the state folder stay",
		Args:  noArgs,
		RunE:  func(*cobra.Command, []string) error { return a.uninstall(f) },
	}
	a.unitFlags(cmd, &f)
	return cmd
}

// serviceCommands are start, stop and restart.
func (a *app) serviceCommands() (out []*cobra.Command) {
	for verb, short := range map[string]string{
		"start": "Start the service", "stop": "Stop the service, once the running jobs have ended", "restart": "Restart the service, once the running jobs have ended",
	} {
		var f unitFlags
		cmd := &cobra.Command{
			Use: verb, Short: short, Args: noArgs,
			RunE: func(*cobra.Command, []string) error { return a.tell(f, verb) },
		}
		a.unitFlags(cmd, &f)
		out = append(out, cmd)
	}
	return out
}

// tell has systemd do something with the service.
func (a *app) tell(f unitFlags, verb string) error {
	if _, err := f.find(); err != nil {
		return err
	}
	if !f.live() {
		return withHint(errors.New("systemd does not run here"), "slipway run works without a service")
	}
	return systemctl(verb, f.service)
}

func (a *app) unitFlags(cmd *cobra.Command, f *unitFlags) {
	fs := cmd.Flags()
	fs.StringVarP(&f.service, "service", "n", "slipway", "the name of the service")
	fs.StringVar(&f.dir, "unit-dir", unitDir, "where units lie")
	fs.Lookup("unit-dir").Hidden = true
}

func (f unitFlags) path() (string, error) {
	if f.service == "" || strings.ContainsAny(f.service, "/ \t\n") {
		return "", usagef("write --service slipway", "%q is no name of a service", f.service)
	}
	return filepath.Join(f.dir, f.service+".service"), nil
}

// find is the path of the unit, which must be there and slipway's.
func (f unitFlags) find() (string, error) {
	path, err := f.path()
	if err != nil {
		return "", err
	}
	there, err := ownUnit(path)
	if err == nil && there == nil {
		err = withHint(fmt.Errorf("there is no service %s", f.service), "slipway install makes one")
	}
	return path, err
}

// unitText is the unit for this program, with the config that it would use now.
func (a *app) unitText(f unitFlags) ([]byte, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	path, _, err := a.findConfig()
	if err != nil {
		return nil, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	words := []string{program, "run", "--config", path}
	for _, w := range [][2]string{{"--working-directory", f.workingDirectory}, {"--user", f.user}} {
		if w[1] != "" {
			words = append(words, w[0], w[1])
		}
	}
	for i, w := range words {
		words[i] = unitWord(w)
	}
	var b bytes.Buffer
	err = unit.Execute(&b, map[string]string{"Name": f.service, "Command": strings.Join(words, " ")})
	return b.Bytes(), err
}

// unitWord quotes a word of ExecStart, in which systemd replaces % and $: systemd.service(5).
func unitWord(w string) string {
	w = strings.NewReplacer("%", "%%", "$", "$$", `\`, `\\`, `"`, `\"`).Replace(w)
	if strings.ContainsAny(w, " \t'\"\\;") {
		return `"` + w + `"`
	}
	return w
}

func (a *app) install(f unitFlags) error {
	path, err := f.path()
	if err != nil {
		return err
	}
	text, err := a.unitText(f)
	if err != nil {
		return err
	}
	if f.print {
		_, err := a.stdout.Write(text)
		return err
	}
	there, err := ownUnit(path)
	if err != nil {
		return err
	}
	if there != nil && !bytes.Equal(there, text) {
		return withHint(fmt.Errorf("%s is there already, with other settings", path), "slipway uninstall removes it")
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return asRoot(fmt.Errorf("write the unit: %w", err))
	}
	fmt.Fprintf(a.stdout, "wrote %s\n", path)
	if f.user != "" {
		if _, err := user.Lookup(f.user); err != nil {
			fmt.Fprintf(a.stderr, "slipway: warning: there is no user %q, whom jobs of the shell executor would run as\n", f.user)
		}
	}
	if !f.live() {
		fmt.Fprintf(a.stdout, "systemd does not run here; where it does, start the service with: systemctl enable --now %s\n", f.service)
		return nil
	}
	if err := errors.Join(systemctl("daemon-reload"), systemctl("enable", f.service)); err != nil {
		return err
	}
	config, _, err := a.findConfig()
	if err != nil {
		return err
	}
	if _, err := os.Stat(config); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(a.stdout, "not started: there is no %s; slipway register writes it, then: systemctl start %s\n", config, f.service)
		return nil
	}
	if err := systemctl("restart", f.service); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "started %s; journalctl -u %s shows its log\n", f.service, f.service)
	return nil
}

func (a *app) uninstall(f unitFlags) error {
	path, err := f.find()
	if err != nil {
		return err
	}
	if f.live() {
		if err := systemctl("disable", "--now", f.service); err != nil { // waits for the running jobs
			return err
		}
	}
	if err := os.Remove(path); err != nil {
		return asRoot(fmt.Errorf("remove the unit: %w", err))
	}
	fmt.Fprintf(a.stdout, "removed %s\n", path)
	if f.live() {
		return systemctl("daemon-reload")
	}
	return nil
}

// ownUnit reads a unit that slipway wrote; nil if there is none.
func ownUnit(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(text, []byte(unitMark)) {
		return nil, withHint(fmt.Errorf("%s was not written by slipway install", path), "give the service another name with --service, or remove the file")
	}
	return text, nil
}

func asRoot(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return withHint(err, "only root can do that: sudo slipway …")
	}
	return err
}

// unitDir is where an administrator's units lie: systemd.unit(5).
const unitDir = "/etc/systemd/system"

// live reports whether a systemd of this machine reads the unit, as sd_booted(3) tells.
func (f unitFlags) live() bool {
	info, err := os.Lstat("/run/systemd/system")
	return err == nil && info.IsDir() && f.dir == unitDir
}

func systemctl(args ...string) error {
	if out, err := exec.Command("systemctl", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
