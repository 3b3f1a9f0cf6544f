package matview

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Whoever may not drop a view learns whose it is, and which statement helps.
func TestDropByAnotherRole(t *testing.T) {
	db := jobs(t)
	owner, _ := db.Role(t, "")
	login, password := db.Role(t, "")
	db.Exec(t, "GRANT CREATE ON SCHEMA public TO "+owner+"; GRANT SELECT ON jobs TO "+owner)
	v := create(t, db.Pool(t), Spec{Name: Name{PublicSchema, "v"}, Definition: "SELECT id, name FROM jobs", Owner: owner, WithData: true})
	pool, err := pgxpool.New(t.Context(), db.URLFor(login, password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	remedy := fmt.Sprintf("GRANT %s TO %s", owner, login)
	err = change(t, pool, func(tx pgx.Tx) error { return Drop(t.Context(), tx, v) })
	if want := fmt.Sprintf("drop materialized view v: role %s may not, since it belongs to role %s: %s", login, owner, remedy); err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	db.Exec(t, remedy)
	if err := change(t, pool, func(tx pgx.Tx) error { return Drop(t.Context(), tx, v) }); err != nil {
		t.Error(err)
	}
}
