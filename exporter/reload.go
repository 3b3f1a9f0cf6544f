package main

import (
	"context"
	"io"
	"net/http"
	"os"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/exporter/api"
	"github.com/matview/terraform-provider-matview/exporter/config"
	"github.com/matview/terraform-provider-matview/exporter/scheduler"
)

// generation is the API as one reading of the configuration has it.
type generation struct {
	config   *config.Config
	reads    *api.Handler
	realTime *pgxpool.Pool  // nil: not offered
	requests sync.WaitGroup // under way
}

// newGeneration takes over the connections for live queries from before where
// nothing about them has changed.
func (d *daemon) newGeneration(ctx context.Context, before *generation) (_ *generation, err error) {
	g := &generation{}
	if g.config, err = config.Load(d.flags.configFile, os.Getenv); err != nil {
		return nil, err
	}
	if err := checkDimensions(g.config); err != nil {
		return nil, err
	}
	live := g.config.RealTime
	switch {
	case live.URL == "":
	case before != nil && before.realTime != nil && before.config.RealTime.URL == live.URL && before.config.RealTime.MaxConcurrent == live.MaxConcurrent:
		g.realTime = before.realTime
	default:
		if g.realTime, err = api.OpenRealTime(ctx, live); err != nil {
			return nil, err
		}
	}
	g.reads, err = api.New(api.Options{
		Pool: d.readers, RealTimePool: g.realTime, Schema: d.schema, Config: g.config, Logger: d.logger,
		Authenticated: d.authenticated, Explain: scheduler.NewExplainer(d.readers, d.schema).NextRun,
	})
	if err != nil {
		g.close(before)
		return nil, err
	}
	return g, nil
}

// close ends what other does not go on to use, once no request does either.
func (g *generation) close(other *generation) {
	g.requests.Wait()
	if g.realTime != nil && (other == nil || other.realTime != g.realTime) {
		g.realTime.Close()
	}
}

// ServeHTTP answers by the configuration that is in force when a request comes.
func (d *daemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.inForce.RLock()
	g := d.current
	g.requests.Add(1)
	d.inForce.RUnlock()
	defer g.requests.Done()
	if r.URL.Path == "/-/reload" {
		d.serveReload(w, r, g)
		return
	}
	g.reads.ServeHTTP(w, r)
}

// reload reads the configuration file and the tokens again. If anything about
// them is wrong the old ones stay in force.
func (d *daemon) reload(ctx context.Context) (err error) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	defer func() {
		if err != nil {
			d.logger.Error("configuration not reloaded, the old one stays", "err", err)
			return
		}
		d.logger.Info("configuration reloaded", "file", d.flags.configFile)
	}()
	before := d.current // only a reload changes it
	g, err := d.newGeneration(ctx, before)
	if err != nil {
		return err
	}
	d.checkRoutes(ctx, g)
	if err := d.publishWith(g.config); err != nil {
		g.close(before)
		return err
	}
	d.inForce.Lock()
	d.current = g
	d.inForce.Unlock()
	go before.close(g)
	return nil
}

// crossOrigin keeps other sites' pages from using the password that a browser
// remembers for ours.
var crossOrigin = http.NewCrossOriginProtection()

// serveReload lets whoever may read closed routes reload, if the flag says so.
func (d *daemon) serveReload(w http.ResponseWriter, r *http.Request, g *generation) {
	say := func(status int, line string) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, line+"\n") // the client has gone
	}
	switch {
	case !d.flags.lifecycle:
		say(http.StatusForbidden, "reloading over HTTP is not enabled: start with --web.enable-lifecycle, or send SIGHUP")
	case r.Method != http.MethodPost && r.Method != http.MethodPut:
		w.Header().Set("Allow", "POST, PUT")
		say(http.StatusMethodNotAllowed, "only POST and PUT reload")
	case crossOrigin.Check(r) != nil:
		say(http.StatusForbidden, "another site's page cannot reload")
	default:
		g.reads.Guard(func(_ http.ResponseWriter, r *http.Request) {
			if err := d.reload(context.WithoutCancel(r.Context())); err != nil {
				say(http.StatusInternalServerError, "not reloaded, the old configuration stays; the exporter's log says why")
				return
			}
			say(http.StatusOK, "reloaded")
		})(w, r)
	}
}

// reloadOnSignal reloads on SIGHUP until ctx ends.
func (d *daemon) reloadOnSignal(ctx context.Context) {
	for {
		select {
		case <-d.hangups:
			_ = d.reload(ctx) // logged
		case <-ctx.Done():
			return
		}
	}
}
