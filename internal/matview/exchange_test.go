package matview

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
)

// Changes by other sessions after the swap has read the properties and before it has
// the locks are neither undone nor lost.
func TestSwapDuringChanges(t *testing.T) {
	for name, test := range map[string]struct {
		sql     string // of another session
		changed bool   // the swap gives up
		check   string
	}{
		"dropped dependent": {sql: "DROP VIEW over", check: "to_regclass('over') IS NULL"},
		"renamed dependent": {sql: "ALTER VIEW over RENAME TO above", check: "(SELECT count(*) FROM above) = 0 AND to_regclass('over') IS NULL"},
		"another owner of a dependent": {
			sql: "ALTER VIEW over OWNER TO other", check: "pg_get_userbyid(relowner) = 'other' FROM pg_class WHERE oid = 'over'::regclass",
		},
		"dropped": {sql: "DROP MATERIALIZED VIEW v CASCADE", changed: true, check: "to_regclass('v') IS NULL"},
		"renamed": {sql: "ALTER MATERIALIZED VIEW v RENAME TO w", changed: true, check: "to_regclass('v') IS NULL AND (SELECT count(*) FROM over) = 0"},
		"another of its name": {
			sql:     "ALTER MATERIALIZED VIEW v RENAME TO w; CREATE MATERIALIZED VIEW v AS SELECT 7 AS seven",
			changed: true, check: "(SELECT seven FROM v) = 7 AND (SELECT count(*) FROM w) = 0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := jobs(t)
			pool := db.Pool(t)
			other, _ := db.Role(t, "")
			db.Exec(t, "GRANT CREATE ON SCHEMA public TO "+other)
			v := create(t, pool, Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id FROM jobs", WithData: true})
			db.Exec(t, "CREATE VIEW over AS SELECT * FROM v")
			roles := strings.NewReplacer("other", other)
			once := sync.OnceFunc(func() { db.Exec(t, roles.Replace(test.sql)) })
			err := swap(t, pool, Swap{View: v, Exchanging: func(context.Context) error { once(); return nil }})
			var changed *ChangedError
			if errors.As(err, &changed) != test.changed || err != nil && !test.changed {
				t.Errorf("error %v, want a ChangedError: %t", err, test.changed)
			}
			if sql := "SELECT " + roles.Replace(test.check); !value[bool](t, pool, sql) {
				t.Errorf("not so: %s", sql)
			}
			if !test.changed && read(t, pool, v.Name).OID == v.OID {
				t.Error("it was not swapped")
			}
		})
	}
}
