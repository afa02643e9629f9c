package demo

import (
	"context"
	"net/http"
	"time"
)

// hubURL is the address at which Docker Hub says that it is a registry.
const hubURL = "https://registry-1.docker.io/v2/"

// reachable reports whether an image registry answers at url. It takes two seconds at most.
func reachable(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	// 401 is the usual answer. The header tells a registry from a firewall's web page.
	return resp.StatusCode < http.StatusInternalServerError && resp.Header.Get("Docker-Distribution-Api-Version") == "registry/2.0"
}
