package guard

import (
	"maps"
	"net/http"
	"strings"
)

// handler answers one call. An error is told to the client and, if it is a Denial, to the job's author.
type handler func(c *call) error

// route is one row of the table of all calls that the guard knows.
type route struct {
	method, pattern string // {id} is one segment, {name} one or more: image names have slashes
	handle          handler
	rawBody         bool // a stream, such as a tar archive; all other bodies are JSON and small, or not there
}

type router struct{ routes []route }

func newRouter() *router { return &router{routes: routes()} }

// find returns the row for a path and the values of its wildcards.
func (r *router) find(method, path string) (route, map[string]string, bool) {
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for _, rt := range r.routes {
		if rt.method != method {
			continue
		}
		if vars, ok := match(strings.Split(rt.pattern[1:], "/"), segments); ok {
			return rt, vars, true
		}
	}
	return route{}, nil, false
}

func match(pattern, segments []string) (map[string]string, bool) {
	vars := map[string]string{}
	for i, p := range pattern {
		switch {
		case p == "{name}":
			rest := len(pattern) - i - 1
			n := len(segments) - i - rest
			if n < 1 {
				return nil, false
			}
			vars["name"] = strings.Join(segments[i:i+n], "/")
			tail, ok := match(pattern[i+1:], segments[i+n:])
			if !ok || strings.HasSuffix(vars["name"], "/") {
				return nil, false
			}
			maps.Copy(vars, tail)
			return vars, true
		case i >= len(segments):
			return nil, false
		case strings.HasPrefix(p, "{"):
			if segments[i] == "" {
				return nil, false
			}
			vars[strings.Trim(p, "{}")] = segments[i]
		case p != segments[i]:
			return nil, false
		}
	}
	return vars, len(pattern) == len(segments)
}

// routes is every call that has a handler. All others are refused, whatever they are.
func routes() []route {
	get := func(p string, h handler) route { return route{method: http.MethodGet, pattern: p, handle: h} }
	head := func(p string, h handler) route { return route{method: http.MethodHead, pattern: p, handle: h} }
	post := func(p string, h handler) route { return route{method: http.MethodPost, pattern: p, handle: h} }
	del := func(p string, h handler) route { return route{method: http.MethodDelete, pattern: p, handle: h} }
	raw := func(r route) route { r.rawBody = true; return r }
	put := func(p string, h handler) route { return route{method: http.MethodPut, pattern: p, handle: h} }
	return []route{
		// system.go, events.go
		get("/_ping", ping),
		head("/_ping", ping),
		get("/version", version),
		get("/info", info),
		get("/events", events),
		get("/system/df", diskUsage),
		post("/auth", login),

		// containers.go, container_*.go, create.go
		get("/containers/json", containerList),
		post("/containers/create", containerCreate),
		post("/containers/prune", containerPrune),
		get("/containers/{id}/json", containerInspect),
		get("/containers/{name}/json", noContainerOfName), // "docker inspect registry/image" asks for a container first
		get("/containers/{id}/top", containerTop),
		get("/containers/{id}/logs", containerLogs),
		get("/containers/{id}/changes", containerChanges),
		get("/containers/{id}/stats", containerStats),
		get("/containers/{id}/export", containerExport),
		post("/containers/{id}/start", containerStart),
		post("/containers/{id}/stop", containerStop),
		post("/containers/{id}/restart", containerRestart),
		post("/containers/{id}/kill", containerKill),
		post("/containers/{id}/pause", containerPause),
		post("/containers/{id}/unpause", containerUnpause),
		post("/containers/{id}/wait", containerWait),
		post("/containers/{id}/resize", containerResize),
		post("/containers/{id}/rename", containerRename),
		post("/containers/{id}/update", containerUpdate),
		del("/containers/{id}", containerRemove),
		post("/containers/{id}/attach", containerAttach),
		get("/containers/{id}/attach/ws", containerAttachWebsocket),
		post("/containers/{id}/exec", execCreate),
		get("/exec/{id}/json", execInspect),
		post("/exec/{id}/start", execStart),
		post("/exec/{id}/resize", execResize),
		get("/containers/{id}/archive", archiveGet),
		head("/containers/{id}/archive", archiveHead),
		raw(put("/containers/{id}/archive", archivePut)),
		post("/commit", commit),

		// networks.go, network_*.go
		get("/networks", networkList),
		get("/networks/", networkList),
		post("/networks/create", networkCreate),
		post("/networks/prune", networkPrune),
		get("/networks/{id}", networkInspect),
		post("/networks/{id}/connect", networkConnect),
		post("/networks/{id}/disconnect", networkDisconnect),
		del("/networks/{id}", networkRemove),

		// volumes.go
		get("/volumes", volumeList),
		post("/volumes/create", volumeCreate),
		post("/volumes/prune", volumePrune),
		get("/volumes/{id}", volumeInspect),
		del("/volumes/{id}", volumeRemove),

		// image_*.go
		get("/images/json", imageList),
		get("/images/search", imageSearch),
		raw(post("/images/create", imageCreate)),
		raw(post("/images/load", imageLoad)),
		get("/images/get", imageSave),
		post("/images/prune", imagePrune),
		get("/images/{name}/get", imageSaveOne),
		get("/images/{name}/json", imageInspect),
		get("/images/{name}/history", imageHistory),
		get("/images/{name}/attestations", imageAttestations),
		post("/images/{name}/push", imagePush),
		post("/images/{name}/tag", imageTag),
		del("/images/{name}", imageRemove),
		get("/distribution/{name}/json", distribution),

		// build.go, session.go, grpc.go
		raw(post("/build", build)),
		post("/build/prune", buildPrune),
		post("/build/cancel", buildCancel),
		post("/session", sessionOpen),
		post("/grpc", grpcOpen),

		// call_refused.go: what a job gets no part of, with the words that clients expect
		get("/swarm", noSwarm),
		get("/services", noSwarm),
		get("/tasks", noSwarm),
		get("/nodes", noSwarm),
		get("/secrets", noSwarm),
		get("/configs", noSwarm),
		get("/plugins", noPlugins),
		get("/plugins/{name}/json", noPlugin),
	}
}
