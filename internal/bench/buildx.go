package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
)

// buildx adds the row of a warm build with buildx, which speaks gRPC, through the guard and on the Engine's own socket.
func (r *rig) buildx(runs int, g *guarded, t *table) error {
	plugins := os.Getenv("SLIPWAY_PLUGINS")
	if plugins == "" {
		return errors.New("SLIPWAY_PLUGINS does not say where buildx is: make bench does")
	}
	config, dir := filepath.Join(r.dir, "docker"), filepath.Join(r.dir, "buildx")
	for _, d := range []string{config, dir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink(plugins, filepath.Join(config, "cli-plugins")); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"Dockerfile": "FROM " + g.base + "\nRUN echo " + filepath.Base(r.dir) + " buildx > /warm\nCOPY app.txt /\nRUN cat /warm\n", "app.txt": "hello\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	p, err := g.inTurn(runs, func(c *http.Client) error {
		socket := r.engine.Socket()
		if c == g.job {
			socket = filepath.Join(r.dir, "guard.sock")
		}
		cmd := exec.Command("docker", "buildx", "build", "-t", imagePrefix+"buildx", ".")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+socket, "DOCKER_CONFIG="+config, "BUILDKIT_PROGRESS=plain")
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	})
	if err != nil {
		return err
	}
	t.row("guard: warm build, buildx", millis(p.ours), millis(p.minimum), p.ratio(), "≤ 1.1×")
	return nil
}
