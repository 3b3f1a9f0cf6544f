package provider

import (
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// Terraform works on several resources at once. Run with -race.
func TestClientIsSharedByResources(t *testing.T) {
	db := postgrestest.New(t)
	c := &client{config: postgres.Config{URL: db.URL(), MaxConnections: 2}}
	pools := make([]*pgxpool.Pool, 8)
	var group sync.WaitGroup
	for i := range pools {
		group.Go(func() {
			pool, err := c.open(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			pools[i] = pool
			if _, err := c.openHeartbeat(t.Context()); err != nil {
				t.Error(err)
			}
			if v, err := c.catalog.read(t.Context(), pool, matview.Name{Schema: "public", Relation: "none"}); v != nil || err != nil {
				t.Errorf("read %v, %v", v, err)
			}
			c.catalog.forget()
		})
	}
	group.Wait()
	for _, pool := range pools {
		if pool != pools[0] {
			t.Error("there is more than one pool")
		}
	}
	pools[0].Close()
	c.heartbeatPool.Close()
}
