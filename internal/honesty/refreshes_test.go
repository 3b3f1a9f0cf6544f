package honesty

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// refreshKinds are refreshes by our programs.
var refreshKinds = []kind{
	{name: "refresh", weight: 60, run: refreshOurs},
	{name: "refresh with short timeouts", weight: 10, run: refreshWithShortTimeouts},
	{name: "refresh cancelled", weight: 6, run: refreshCancelled},
	{name: "exporter refresh", weight: 10, run: exporterRefresh},
	{name: "exporter refresh killed", weight: 5, run: exporterRefreshKilled},
	{name: "exporter refresh frozen", weight: 3, run: exporterRefreshFrozen},
	{name: "schedule changed", weight: 8, run: scheduleChanged, on: func(v *view) bool { return v.every != "" }},
}

// methods are all refresh methods.
var methods = []refresh.Method{refresh.Auto, refresh.Blocking, refresh.Concurrently, refresh.Swap}

func (e *event) method() refresh.Method { return oneOf(e, methods...) }

func (e *event) request() refresh.Request {
	return refresh.Request{
		View: e.view.key, Method: e.method(), Trigger: oneOf(e, refresh.TriggerManual, refresh.TriggerTerraform),
		LockTimeout: 100*time.Millisecond + e.upTo(3*time.Second), TotalObjects: "max(n)",
	}
}

func refreshOurs(ctx context.Context, h *harness, e *event) error {
	_, err := oneOf(e, h.refreshers...).Refresh(ctx, e.request())
	return err
}

func refreshWithShortTimeouts(ctx context.Context, h *harness, e *event) error {
	req := e.request()
	req.LockTimeout = time.Millisecond + e.upTo(30*time.Millisecond)
	req.StatementTimeout = time.Millisecond + e.upTo(50*time.Millisecond)
	_, err := oneOf(e, h.refreshers...).Refresh(ctx, req)
	if state := postgres.SQLState(err); state == pgerrcode.LockNotAvailable || state == pgerrcode.QueryCanceled {
		return nil // as intended
	}
	return err
}

func refreshCancelled(ctx context.Context, h *harness, e *event) error {
	soon, cancel := context.WithTimeout(ctx, time.Millisecond+e.upTo(60*time.Millisecond))
	defer cancel()
	_, err := oneOf(e, h.refreshers...).Refresh(soon, e.request())
	if soon.Err() != nil {
		return nil // as intended
	}
	return err
}

func (e *event) command() []string {
	switch e.IntN(4) {
	case 0:
		return []string{"refresh", "--all"}
	case 1:
		return []string{"refresh", "--due"}
	default:
		return []string{"refresh", "--method=" + string(e.method()), e.view.key}
	}
}

func exporterRefresh(_ context.Context, h *harness, e *event) error {
	p, err := h.exporters.start(e.command()...)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-time.After(eventTimeout):
		p.kill()
		return fmt.Errorf("it did not exit: %s", p.log.String())
	}
	if !p.cmd.ProcessState.Success() {
		return fmt.Errorf("it failed: %s", p.log.String())
	}
	return nil
}

func exporterRefreshKilled(ctx context.Context, h *harness, e *event) error {
	p, err := h.exporters.start(e.command()...)
	if err != nil {
		return err
	}
	pause(ctx, e.upTo(200*time.Millisecond))
	p.kill()
	return nil
}

func exporterRefreshFrozen(ctx context.Context, h *harness, e *event) error {
	p, err := h.exporters.start(e.command()...)
	if err != nil {
		return err
	}
	defer p.kill()
	pause(ctx, e.upTo(150*time.Millisecond))
	frozen := e.upTo(500 * time.Millisecond)
	if e.chance(10) {
		frozen += h.attemptTimeout + 2*time.Second // long enough to count as dead
	}
	if err := p.freeze(ctx, frozen); err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
	}
	return nil
}

func scheduleChanged(ctx context.Context, h *harness, e *event) error {
	return h.session(ctx, e, func(s *session) error {
		method := oneOf(e, "auto", "auto", "blocking", "concurrently", "swap")
		// A method that is not possible would leave the view stale at the end.
		if e.view.unique == "" && method == "concurrently" || !e.view.leaf && method == "swap" {
			method = "auto"
		}
		return s.exec(`UPDATE materialized_view_refresh_schedule SET every = $2, method = $3 WHERE view_name = $1`,
			e.view.key, oneOf(e, "1 second", "1500 milliseconds", "2 seconds"), method)
	})
}

// advisoryLock takes the lock that our refreshes of a view take.
func advisoryLock(s *session, v *view) error {
	return s.exec("SELECT pg_advisory_xact_lock($1, hashtext($2))", matview.LockClass, v.key)
}
