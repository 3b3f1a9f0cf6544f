package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/sync/errgroup"
)

// newServers makes a server for each address: exporter-toolkit changes the
// server that it is given, so that two addresses must not share one. Sockets of
// systemd come together and are served by one.
func (d *daemon) newServers(handler http.Handler) {
	n := len(*d.flags.web.WebListenAddresses)
	if d.socketActivated() {
		n = 1
	}
	for range n {
		server := &http.Server{
			Handler: handler, ErrorLog: slog.NewLogLogger(d.logger.Handler(), slog.LevelDebug),
			ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
			MaxHeaderBytes: 32 << 10,
		}
		openProbes(server, d)
		d.servers = append(d.servers, server)
	}
}

func (d *daemon) socketActivated() bool {
	flag := d.flags.web.WebSystemdSocket
	return flag != nil && *flag
}

// listenAndServe returns when all servers are shut down, or one has failed.
func (d *daemon) listenAndServe() error {
	serving, failed := errgroup.WithContext(context.Background())
	for i, server := range d.servers {
		flags := *d.flags.web
		if !d.socketActivated() {
			flags.WebListenAddresses = &[]string{(*d.flags.web.WebListenAddresses)[i]}
		}
		serving.Go(func() error {
			if err := web.ListenAndServe(server, &flags, d.logger); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	// One address that cannot be listened on ends the others too.
	stop := context.AfterFunc(failed, func() {
		for _, server := range d.servers {
			_ = server.Close()
		}
	})
	defer stop()
	return serving.Wait()
}

// shutDown lets requests finish for a while.
func (d *daemon) shutDown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	for _, server := range d.servers {
		if err := server.Shutdown(ctx); err != nil {
			_ = server.Close()
		}
	}
}
