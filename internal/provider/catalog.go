package provider

import (
	"context"
	"sync"
	"time"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// catalogAge is how old what a plan goes by may be. Terraform reads a few
// resources at a time, and starts the provider anew for each plan and apply.
const catalogAge = 5 * time.Second

// catalog is all materialized views as one query found them, so that a plan of a
// thousand views does not send a thousand. Its views are not to be changed.
type catalog struct {
	mu    sync.Mutex
	views map[matview.Name]*matview.View
	asOf  time.Time
}

// read is nil where there is no such view. Whoever comes while the catalog is
// being read waits for that.
func (c *catalog) read(ctx context.Context, q matview.Querier, name matview.Name) (*matview.View, error) {
	views, err := c.all(ctx, q)
	return views[name], err
}

// byOID is [catalog.read] of a view that may have another name by now.
func (c *catalog) byOID(ctx context.Context, q matview.Querier, oid uint32) (*matview.View, error) {
	views, err := c.all(ctx, q)
	for _, v := range views {
		if v.OID == oid {
			return v, nil
		}
	}
	return nil, err
}

func (c *catalog) all(ctx context.Context, q matview.Querier) (map[matview.Name]*matview.View, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.views == nil || time.Since(c.asOf) > catalogAge {
		started := time.Now()
		err := postgres.Retry(ctx, func() (err error) {
			c.views, err = matview.ReadAll(ctx, q)
			return err
		})
		if err != nil {
			c.views = nil
			return nil, err
		}
		c.asOf = started
	}
	return c.views, nil
}

// forget is for after a change of ours.
func (c *catalog) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.views = nil
}
