package refresh_test

import (
	"testing"

	"github.com/matview/terraform-provider-matview/migrations"
)

// A server in FIPS mode has no md5.
const withoutMD5 = "ALTER FUNCTION pg_catalog.md5(text) RENAME TO md5_disabled; ALTER FUNCTION pg_catalog.md5(bytea) RENAME TO md5_disabled"

func TestSkipWithoutMD5(t *testing.T) {
	needsSkipping(t)
	db := installed(t)
	db.Exec(t, jobs+withoutMD5)
	pool := db.Pool(t)
	mustNotSkip(t, pool, "job_progress", "nothing is known of what it read")
	mustSkip(t, pool, "job_progress")
}

func TestTrackInOtherSchemaWithoutMD5(t *testing.T) {
	db := installed(t)
	db.Exec(t, withoutMD5)
	if err := migrations.Track(t.Context(), db.Connect(t), "other", true); err != nil {
		t.Fatal(err)
	}
}
