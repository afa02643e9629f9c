package executor

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"path"
	"syscall"
	"time"

	"github.com/creack/pty"

	"github.com/slipway-ci/slipway/internal/script"
)

// terminalScript is the file that becomes the shell of a terminal.
const terminalScript = scriptsPrefix + "terminal"

// writeTerminalScript prepares for terminals, if there may be some. Like any script of the job it exports what a profile may have changed.
func (h *hostPlace) writeTerminalScript(p *plan) error {
	if p.slot.Door == nil {
		return nil
	}
	shell, err := exec.LookPath(h.shell) // the job's PATH may not have it
	if err != nil {
		return configurationError("install it, or correct shell in [[runners]]", "the shell of the jobs: %w", err)
	}
	text := script.Stage{Env: p.exports, EnvFile: envFile(p.tempDir), Dir: p.dir, Post: "exec " + script.Quote(shell)}.Text()
	return p.writeFile(p.tempDir, &h.account, terminalScript, text)
}

// terminal implements place: what is begun in it ends with the job at the latest, as all that the job begins does.
//
// GitLab: a login shell of the same user as well, but in the runner's own folder and without the job's variables.
func (h *hostPlace) terminal(ctx context.Context, p *plan, in io.Reader, out io.Writer) error {
	keyboard, screen, err := pty.Open()
	if err != nil {
		return fmt.Errorf("open a terminal: %w", err)
	}
	defer keyboard.Close()
	defer screen.Close()
	if err := syscall.SetNonblock(int(keyboard.Fd()), true); err != nil { // or Close would wait for who reads
		return fmt.Errorf("open a terminal: %w", err)
	}
	if h.account.Other { // programs open it by its name, too
		if err := screen.Chown(h.account.UID, -1); err != nil {
			return fmt.Errorf("give the terminal to %s: %w", h.account.Name, err)
		}
	}
	cmd := exec.CommandContext(ctx, h.shell, "-l", path.Join(p.tempDir, terminalScript))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = screen, screen, screen
	cmd.Cancel, cmd.WaitDelay = keyboard.Close, outputAfterEnd // the shell is hung up, and killed if it stays
	if err := h.begin(cmd, true); err != nil {
		return err
	}
	_ = screen.Close()
	go func() { _, _ = io.Copy(keyboard, in) }() // it ends with in
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		_, _ = io.Copy(out, keyboard) // it ends when nothing has the screen any more
	}()
	_ = cmd.Wait() // with the exit code of what was typed last
	h.forget(cmd.Process.Pid)
	_ = keyboard.SetReadDeadline(time.Now().Add(outputAfterEnd))
	<-shown
	return context.Cause(ctx)
}
