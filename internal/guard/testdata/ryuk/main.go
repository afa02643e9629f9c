// Command ryuk stands in for the real one, which cannot be had here: it takes filters from its clients, and removes the
// containers that they name when the last client has gone.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

func main() {
	l, err := net.Listen("tcp", ":8080")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("Started!")
	filters := map[string]bool{}
	left := make(chan bool)
	clients, changes := 0, make(chan func())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			changes <- func() { clients++ }
			go func() {
				for s := bufio.NewScanner(c); s.Scan(); {
					line := s.Text()
					changes <- func() { filters[line] = true }
					fmt.Fprintln(c, "ACK")
				}
				changes <- func() { clients-- }
				left <- true
			}()
		}
	}()
	for {
		select {
		case change := <-changes:
			change()
		case <-left:
			if clients == 0 && len(filters) > 0 { // others only look whether the port is open
				for f := range filters {
					reap(f)
				}
				return
			}
		case <-time.After(time.Minute):
			return
		}
	}
}

// reap removes what a filter names: label=a&label=b.
func reap(filter string) {
	client := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", "/var/run/docker.sock") }}}
	labels := map[string][]string{}
	for pair := range strings.SplitSeq(filter, "&") {
		k, v, _ := strings.Cut(pair, "=")
		if v, err := url.QueryUnescape(v); err == nil {
			labels[k] = append(labels[k], v)
		}
	}
	text, _ := json.Marshal(labels)
	resp, err := client.Get("http://docker/containers/json?all=1&filters=" + url.QueryEscape(string(text)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	var list []struct{ Id string }
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		fmt.Println(err)
		return
	}
	for _, c := range list {
		r, _ := http.NewRequest(http.MethodDelete, "http://docker/containers/"+c.Id+"?force=1&v=1", nil)
		if resp, err := client.Do(r); err == nil {
			resp.Body.Close()
		}
	}
	fmt.Println("removed", len(list), "containers")
}
