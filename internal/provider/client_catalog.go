package provider

import (
	"context"
	"sync"
	"time"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// catalogTTL is how long a plan uses what it has read. Terraform reads a few
// resources at a time, and starts the provider anew for each plan and apply.
const catalogTTL = 5 * time.Second

// catalog caches all materialized views as one query read them, so that a plan of a
// thousand views does not send a thousand. Callers must not modify the views.
type catalog struct {
	mu     sync.Mutex // held while the catalog is read, so that others wait for that
	views  map[matview.Name]*matview.View
	readAt time.Time
}

// read returns nil if there is no such view.
func (c *catalog) read(ctx context.Context, q postgres.Querier, name matview.Name) (*matview.View, error) {
	views, err := c.all(ctx, q)
	return views[name], err
}

// byOID returns a view that may have been renamed; nil if there is no such view.
func (c *catalog) byOID(ctx context.Context, q postgres.Querier, oid uint32) (*matview.View, error) {
	views, err := c.all(ctx, q)
	for _, v := range views {
		if v.OID == oid {
			return v, nil
		}
	}
	return nil, err
}

func (c *catalog) all(ctx context.Context, q postgres.Querier) (map[matview.Name]*matview.View, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.views == nil || time.Since(c.readAt) > catalogTTL {
		started := time.Now()
		err := postgres.Retry(ctx, func() (err error) {
			c.views, err = matview.ReadAll(ctx, q)
			return err
		})
		if err != nil {
			c.views = nil
			return nil, err
		}
		c.readAt = started
	}
	return c.views, nil
}

// forget is called after a change of ours.
func (c *catalog) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.views = nil
}
