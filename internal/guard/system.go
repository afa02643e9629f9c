package guard

import (
	"maps"
	"net/http"
	"net/url"

	"github.com/moby/moby/api/types/registry"
)

// ping says that the Engine is there. Clients from before 23.0 without a setting of their own choose how they build by
// Builder-Version: "1" keeps them at the classic form, as an Engine of their age does. Newer ones build with buildx in any case.
func ping(c *call) error {
	resp, err := c.engine.do(c.ctx, http.MethodGet, "/_ping", nil, nil, nil)
	if err != nil {
		return err
	}
	defer drain(resp.Body)
	if resp.StatusCode >= http.StatusBadRequest {
		return c.written(readError(resp))
	}
	c.setHeaders()
	h := c.w.Header()
	h.Set("Builder-Version", "1")
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Swarm", "inactive")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if c.r.Method == http.MethodHead {
		h.Set("Content-Length", "0")
		c.w.WriteHeader(http.StatusOK)
		return nil
	}
	_, _ = c.w.Write([]byte("OK"))
	return nil
}

// version shows the Engine's version, and the newest API that both the Engine and the guard know.
func version(c *call) error {
	return c.forwardJSON(http.MethodGet, "/version", nil, nil, func(doc any) (any, error) {
		d, _ := doc.(map[string]any)
		out := keep(d, "Version", "GitCommit", "GoVersion", "Os", "Arch", "KernelVersion", "BuildTime")
		out["ApiVersion"], out["MinAPIVersion"] = c.engine.version.String(), minClientAPI
		details := keep(d, "GitCommit", "GoVersion", "Os", "Arch", "KernelVersion", "BuildTime")
		details["ApiVersion"], details["MinAPIVersion"], details["Experimental"] = out["ApiVersion"], minClientAPI, "false"
		out["Platform"] = map[string]string{"Name": "Docker Engine, guarded by Slipway"}
		out["Components"] = []any{map[string]any{"Name": "Engine", "Version": d["Version"], "Details": details}}
		return out, nil
	})
}

// keep copies fields of a document that are there.
func keep(doc map[string]any, keys ...string) map[string]any {
	out := map[string]any{}
	for _, k := range keys {
		if v, ok := doc[k]; ok {
			out[k] = v
		}
	}
	return out
}

// infoKept are the facts of /info that clients decide by. What names the machine or counts what others have is not among
// them.
var infoKept = []string{
	"Driver", "MemoryLimit", "SwapLimit", "KernelMemory", "KernelMemoryTCP", "CpuCfsPeriod", "CpuCfsQuota", "CPUShares",
	"CPUSet", "PidsLimit", "IPv4Forwarding", "OomKillDisable", "CgroupDriver", "CgroupVersion", "KernelVersion",
	"OperatingSystem", "OSVersion", "OSType", "Architecture", "ServerVersion", "SecurityOptions", "SystemTime",
	"IndexServerAddress", "BridgeNfIptables", "BridgeNfIp6tables",
}

func info(c *call) error {
	counts, err := c.countContainers()
	if err != nil {
		return err
	}
	images, err := c.visibleImages(c.ctx)
	if err != nil {
		return err
	}
	return c.forwardJSON(http.MethodGet, "/info", nil, nil, func(doc any) (any, error) {
		d, _ := doc.(map[string]any)
		out := keep(d, infoKept...)
		if out["IndexServerAddress"] == nil {
			out["IndexServerAddress"] = "https://index.docker.io/v1/"
		}
		cpus, memory := whole(d["NCPU"]), whole(d["MemTotal"])
		if l := c.policy.Limits.NanoCPUs; l > 0 {
			cpus = min(cpus, max(1, l/1e9))
		}
		if l := c.policy.Limits.Memory; l > 0 {
			memory = min(memory, l)
		}
		maps.Copy(out, map[string]any{
			"ID": "", "Name": "slipway", "NCPU": cpus, "MemTotal": memory, "Images": len(images),
			"Containers": counts["all"], "ContainersRunning": counts["running"], "ContainersPaused": counts["paused"],
			"ContainersStopped": counts["all"] - counts["running"] - counts["paused"],
			"Debug":             false, "NFd": 0, "NGoroutines": 0, "NEventsListener": 0, "ExperimentalBuild": false, "LiveRestoreEnabled": false,
			"DockerRootDir": "", "HttpProxy": "", "HttpsProxy": "", "NoProxy": "", "Labels": []string{}, "DriverStatus": []any{},
			"LoggingDriver": "json-file", "Isolation": "", "InitBinary": "docker-init", "DefaultRuntime": "runc",
			"Runtimes": map[string]any{"runc": map[string]any{"path": "runc"}},
			"Plugins":  map[string]any{"Volume": []string{"local"}, "Network": []string{"bridge"}, "Log": []string{"json-file"}, "Authorization": nil},
			"Swarm":    map[string]any{"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "", "RemoteManagers": nil},
			"Warnings": nil, "RegistryConfig": shownRegistries(d["RegistryConfig"]),
		})
		return out, nil
	})
}

// shownRegistries keeps the mirrors, which clients print, and Docker Hub's entry, which they read.
func shownRegistries(doc any) map[string]any {
	d, _ := doc.(map[string]any)
	out := keep(d, "Mirrors")
	indexes, _ := d["IndexConfigs"].(map[string]any)
	out["IndexConfigs"] = keep(indexes, "docker.io")
	out["InsecureRegistryCIDRs"] = []string{}
	return out
}

func (c *call) countContainers() (map[string]int, error) {
	list, err := c.ownContainers(url.Values{"all": {"1"}})
	if err != nil {
		return nil, err
	}
	counts := map[string]int{"all": len(list)}
	for _, doc := range list {
		state, _ := doc["State"].(string)
		counts[state]++
	}
	return counts, nil
}

// diskUsage is made of what is the job's own: the Engine's report is the whole machine's, with others' build steps.
func diskUsage(c *call) error {
	list, err := c.ownContainers(url.Values{"all": {"1"}, "size": {"1"}})
	if err != nil {
		return err
	}
	containers, uses := []any{}, map[string]int{}
	var total, active, free, activeCount int64
	for _, doc := range list {
		size := whole(doc["SizeRw"])
		total += size
		if doc["State"] == "running" || doc["State"] == "paused" || doc["State"] == "restarting" {
			active += size
			activeCount++
		} else {
			free += size
		}
		mounts, _ := doc["Mounts"].([]any)
		for _, m := range mounts {
			m, _ := m.(map[string]any)
			name, _ := m["Name"].(string)
			uses[name]++
		}
		c.showSummary(doc)
		containers = append(containers, doc)
	}
	volumes, used, err := c.volumeUsage(uses)
	if err != nil {
		return err
	}
	images, layers, err := c.imageUsage(list)
	if err != nil {
		return err
	}
	count := [2]int{len(images), len(volumes)}
	if c.version.atLeast("1.52") && !c.flag("verbose") {
		containers, volumes, images = nil, nil, nil
	}
	out := map[string]any{"LayersSize": layers, "Images": images, "Containers": containers, "Volumes": volumes, "BuildCache": []any{}, "BuilderSize": 0}
	if c.version.atLeast("1.52") {
		out = map[string]any{
			"ContainerUsage":  map[string]any{"ActiveCount": activeCount, "TotalCount": len(list), "TotalSize": total, "Reclaimable": free, "Items": containers},
			"VolumeUsage":     map[string]any{"ActiveCount": used, "TotalCount": count[1], "TotalSize": 0, "Reclaimable": 0, "Items": volumes},
			"ImageUsage":      map[string]any{"ActiveCount": 0, "TotalCount": count[0], "TotalSize": layers, "Reclaimable": 0, "Items": images},
			"BuildCacheUsage": map[string]any{"ActiveCount": 0, "TotalCount": 0, "TotalSize": 0, "Reclaimable": 0},
		}
	}
	c.json(http.StatusOK, out)
	return nil
}

// volumeUsage lists the own volumes. Their sizes are not known: the Engine measures all volumes of the machine or none.
func (c *call) volumeUsage(uses map[string]int) (list []any, used int, err error) {
	list = []any{}
	for _, name := range c.jobVolumes() {
		var doc map[string]any
		err := c.engine.getJSON(c.ctx, "/volumes/"+url.PathEscape(name), nil, &doc)
		if isStatus(err, http.StatusNotFound) {
			continue
		}
		if err != nil {
			return nil, 0, c.written(err)
		}
		if uses[name] > 0 {
			used++
		}
		doc = c.showVolume(doc)
		doc["UsageData"] = map[string]any{"Size": -1, "RefCount": uses[name]}
		list = append(list, doc)
	}
	return list, used, nil
}

// imageUsage lists the images that the job may use, with how many of its own containers use each.
func (c *call) imageUsage(containers []map[string]any) (list []any, layers int64, err error) {
	rows, err := c.visibleImages(c.ctx)
	if err != nil {
		return nil, 0, err
	}
	list = []any{}
	for _, row := range rows {
		uses := 0
		for _, doc := range containers {
			if doc["ImageID"] == row.id {
				uses++
			}
		}
		row.doc["Containers"], row.doc["SharedSize"] = uses, -1
		layers += whole(row.doc["Size"])
		list = append(list, row.doc)
	}
	return list, layers, nil
}

// login lets the Engine try credentials at a registry. The Engine is the one that dials, from where no job may.
func login(c *call) error {
	var body registry.AuthConfig
	if err := c.decode(&body, smallBody); err != nil {
		return err
	}
	if err := c.allowHost(c.ctx, registryHost(body.ServerAddress)); err != nil {
		return err
	}
	return c.forward(http.MethodPost, "/auth", nil, body)
}
