package main

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// openProbes answers the probes before anybody is asked for credentials, which
// exporter-toolkit does for every path: it puts its own handler into the server,
// right before that begins to serve.
func openProbes(server *http.Server, probes http.Handler) {
	var mu sync.Mutex // one for each address that is listened on
	server.BaseContext = func(net.Listener) context.Context {
		mu.Lock()
		defer mu.Unlock()
		closed := server.Handler
		server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/-/healthy" || r.URL.Path == "/-/ready" {
				probes.ServeHTTP(w, r)
				return
			}
			closed.ServeHTTP(w, r)
		})
		return context.Background()
	}
}
