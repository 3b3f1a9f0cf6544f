package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/goccy/go-yaml"
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

// webConfig is what of --web.config.file says who may come in. The rest of the
// file is exporter-toolkit's to check.
type webConfig struct {
	Users map[string]any `yaml:"basic_auth_users"`
	TLS   struct {
		ClientAuth string `yaml:"client_auth_type"`
	} `yaml:"tls_server_config"`
}

func readWebConfig(file string) (webConfig, error) {
	var c webConfig
	if file == "" {
		return c, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return c, fmt.Errorf("read the web configuration: %w", err)
	}
	if err := yaml.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("read the web configuration %s: %w", file, err)
	}
	return c, nil
}

// vouchesFor reports whether exporter-toolkit has had r prove who it is, so that
// the API need not ask again. That the file asks for a proof now is not enough:
// a connection may be older than the file, and a request than its users.
func (c webConfig) vouchesFor(r *http.Request) bool {
	if user, _, given := r.BasicAuth(); given && c.Users[user] != nil {
		return true // toolkit has compared the password
	}
	return c.TLS.ClientAuth == "RequireAndVerifyClientCert" && r.TLS != nil && len(r.TLS.VerifiedChains) > 0
}

// authenticated asks the file anew each time, as exporter-toolkit does: when its
// users are taken out, the API must close. One that cannot be read vouches for
// nobody.
func (d *daemon) authenticated(r *http.Request) bool {
	c, err := readWebConfig(*d.flags.web.WebConfigFile)
	return err == nil && c.vouchesFor(r)
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
