package guard

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/demo"
)

// TestCommandStyles runs the docker commands that real pipelines have, in the order of how often they have them, as those
// write them: with a registry, and with docker as it is today.
func TestCommandStyles(t *testing.T) {
	t.Parallel()
	registry, err := demo.StartRegistry()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { registry.Close() })
	project := registry.Host + "/group/demo"
	r := newRig(t, withRegistry(registry.Host, project))
	config := plugins(t)
	dir := r.workspace
	write(t, dir, "Dockerfile", "FROM "+alpine+" AS base\nARG VERSION\nRUN echo version $VERSION >/version\nFROM base\nCOPY page /w/page\nEXPOSE 80\nCMD [\"httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/w\"]\n",
		"page", "the page", "compose.yml", "services:\n  web:\n    image: "+project+"/web:compose\n    build: .\n",
		"docker-bake.hcl", "group \"default\" { targets = [\"image\"] }\ntarget \"image\" {\n target = \"base\"\n tags = [\"bake:1\"]\n}\n")
	job := ""
	if os.Geteuid() == 0 {
		job = r.job()
	}
	for _, c := range []struct {
		line    string // docker …
		stdin   string
		wants   string
		refused string // what it says instead
	}{
		// login, push, build, tag, pull: 7 to 13 of 15 repositories.
		{line: "login -u USER -p PASSWORD REGISTRY", wants: "Login Succeeded"},
		{line: "login --username USER --password-stdin REGISTRY", stdin: registry.Password, wants: "Login Succeeded"},
		{line: "build -t IMAGE:1 .", wants: "naming to"},
		{line: "build -t IMAGE:2 -f Dockerfile --build-arg VERSION=2 .", wants: "naming to"},
		{line: "build --file Dockerfile --tag IMAGE:3 --cache-from IMAGE:1 --pull=false .", wants: "CACHED"},
		{line: "build --no-cache --tag IMAGE:4 --tag IMAGE:5 --label a=b .", wants: "naming to"},
		{line: "push IMAGE:1", wants: "digest: sha256:"},
		{line: "push --all-tags IMAGE", wants: "digest: sha256:"},
		{line: "tag IMAGE:1 IMAGE:latest"},
		{line: "tag IMAGE:1 local:1"},
		{line: "push IMAGE:latest", wants: "latest: digest"},
		{line: "rmi -f IMAGE:1", wants: "Untagged"},
		{line: "pull IMAGE:1", wants: "Status:"},
		{line: "pull --platform linux/amd64 IMAGE:2", wants: "Status:"},
		// run: 4.
		{line: "run --rm IMAGE:2 cat /version", wants: "version 2"},
		{line: "run --rm -e A=b --env C=d " + alpine + " env", wants: "C=d"},
		{line: "run --rm -v " + jobDir + ":/code " + alpine + " cat /code/page", wants: "the page"},
		{line: "run --rm --volume " + jobDir + ":/code:ro " + alpine + " ls /code", wants: "Dockerfile"},
		{line: "run -d -p 3000:80 --name web IMAGE:1"},
		{line: "run --rm --link web:web " + alpine + " wget -q -O - http://web/page", wants: "the page"},
		{line: "run --privileged --rm " + alpine + " true", refused: "[privileged]"},
		// buildx create, info, images, rmi: 2 to 3.
		{line: "buildx create --use --name own --driver docker-container --platform linux/amd64", wants: "own"},
		{line: "buildx use default"},
		{line: "info", wants: "Server Version"},
		{line: "images", wants: "local"},
		{line: "images -q local", wants: ""},
		{line: "image ls", wants: "local"},
		// Once.
		{line: "buildx build --file Dockerfile --tag IMAGE:x --load --target base --build-arg VERSION=x .", wants: "naming to"},
		{line: "buildx build --tag IMAGE:pushed --push --cache-from type=registry,ref=IMAGE:cache .", wants: "push"},
		{line: "buildx inspect default --bootstrap", wants: "Driver:"},
		{line: "buildx bake --set *.args.VERSION=3 --progress plain", wants: "naming to"},
		{line: "buildx imagetools create -t IMAGE:copied IMAGE:1"},
		{line: "manifest inspect --insecure IMAGE:1", wants: "schemaVersion"},
		{line: "context create other --docker host=unix:///var/run/docker.sock", wants: "other"},
		{line: "save -o image.tar local:1"},
		{line: "load --input image.tar", wants: "Loaded image: local:1"},
		{line: "exec -e A=b web cat /w/page", wants: "the page"},
		{line: "ps -a --filter name=web", wants: "web"},
		{line: "logs web"},
		{line: "export -o files.tar web"},
		{line: "import files.tar imported:1", wants: "sha256:"},
		{line: "network create -d bridge net"},
		{line: "create --env A=b --name made --expose 80 --network net " + alpine + " true"},
		{line: "rm made", wants: "made"},
		{line: "network rm net", wants: "net"},
		{line: "compose -p app build", wants: "Built"},
		{line: "compose -p app push", wants: ""},
		{line: "compose -p app pull", wants: "Pulled"},
		{line: "compose -p app up -d", wants: "Started"},
		{line: "compose -p app stop -t 0", wants: "Stopped"},
		{line: "compose -p app rm -f", wants: "Removed"},
		{line: "compose -p app down -v"},
		{line: "rm -f web", wants: "web"},
		{line: "image prune -af", wants: "reclaimed"},
		{line: "builder prune -af", wants: "Total"},
		{line: "system prune -af", wants: "reclaimed"},
		{line: "logout REGISTRY", wants: "Removing login"},
	} {
		if job == "" && strings.Contains(c.line, " -p 3000:80") {
			continue // published ports need root
		}
		line := strings.NewReplacer("USER", registry.User, "PASSWORD", registry.Password, "REGISTRY", registry.Host, "IMAGE", project).Replace(c.line)
		out, err := r.modernAt(config, "unix://"+r.Socket(), dir, c.stdin, strings.Fields(line)...)
		switch {
		case c.refused != "":
			if err == nil || !strings.Contains(out, c.refused) {
				t.Errorf("docker %s: %v\n%s", line, err, out)
			}
		case err != nil || !strings.Contains(out, c.wants):
			t.Errorf("docker %s: %v\n%s", line, err, out)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "image.tar")); err != nil {
		t.Error(err)
	}
}
