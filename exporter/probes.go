package main

import (
	"context"
	"net"
	"net/http"
)

// openProbes answers the probes before anybody is asked for credentials, which
// exporter-toolkit does for every path: it puts its own handler into the server,
// right before that begins to serve. The server must have one listener only.
func openProbes(server *http.Server, probes http.Handler) {
	server.BaseContext = func(net.Listener) context.Context {
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
