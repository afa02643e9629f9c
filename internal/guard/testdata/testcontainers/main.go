// Command testcontainers is a test as developers write it: a container with a port, waited for and asked.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
)

func main() {
	if err := run(context.Background(), os.Args[1]); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, image string) error {
	c, err := testcontainers.GenericContainer(ctx, testcontainers.GenericContainerRequest{
		ContainerRequest: testcontainers.ContainerRequest{
			Image: image, ExposedPorts: []string{"80/tcp"},
			Cmd:        []string{"sh", "-c", "mkdir /w; echo served >/w/index.html; exec httpd -f -p 80 -h /w"},
			WaitingFor: wait.ForHTTP("/").WithPort("80/tcp"),
		},
		Started: true,
	})
	if err != nil {
		return err
	}
	endpoint, err := c.Endpoint(ctx, "http")
	if err != nil {
		return err
	}
	resp, err := http.Get(endpoint)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Printf("%s says %s", endpoint, body)
	return err
}
