package postgres_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgerrcode"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// Texts are what they are in databases of another encoding, and where a setting of the
// database or the url would have them sent in another.
func TestTextsAreUTF8(t *testing.T) {
	db := postgrestest.New(t)
	latin1 := db.Name + "_latin1"
	db.Exec(t, "CREATE DATABASE "+latin1+" ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
	t.Cleanup(func() { db.Exec(t, "DROP DATABASE "+latin1) })
	db.Exec(t, "ALTER DATABASE "+db.Name+" SET client_encoding = 'LATIN1'")
	u, err := url.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + latin1
	withSetting := *u
	withSetting.RawQuery += "&client_encoding=LATIN1"
	for _, dsn := range []string{db.URL(), u.String(), withSetting.String()} {
		pool, err := postgres.Open(t.Context(), postgres.Config{URL: dsn})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		if _, err := pool.Exec(t.Context(), `DROP MATERIALIZED VIEW IF EXISTS "prés"; CREATE MATERIALIZED VIEW "prés" AS SELECT 'Straße'::text AS s`); err != nil {
			t.Fatal(err)
		}
		var name, text string
		var length int
		err = pool.QueryRow(t.Context(), `SELECT (SELECT relname FROM pg_class WHERE relname = $1), s, length(s) FROM "prés" WHERE s = $2`, "prés", "Straße").Scan(&name, &text, &length)
		if err != nil || name != "prés" || text != "Straße" || length != len("Strasse")-1 {
			t.Errorf("%s: %q, %q of %d characters, %v", dsn, name, text, length, err)
		}
		_, err = pool.Exec(t.Context(), "SELECT $1::text", "→")
		pool.Close()
		if strings.Contains(dsn, latin1) && (postgres.SQLState(err) != pgerrcode.UntranslatableCharacter || !strings.Contains(postgres.Message(err), `has no equivalent in encoding "LATIN1"`)) {
			t.Errorf("%s: %v", dsn, err)
		}
	}
}
