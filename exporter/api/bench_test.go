package api_test

import (
	"fmt"
	"net/http"
	"testing"
)

// BenchmarkCachedRow among few and among many views: the freshness of one must
// not cost that of all.
func BenchmarkCachedRow(b *testing.B) {
	for _, views := range []int{1, 1000} {
		b.Run(fmt.Sprintf("views=%d", views), func(b *testing.B) {
			db := jobs(b)
			for i := 1; i < views; i++ {
				db.Exec(b, fmt.Sprintf(`CREATE MATERIALIZED VIEW other_%d AS SELECT 1 AS id; INSERT INTO materialized_view_refresh_log VALUES ('other_%[1]d', now(), 1)`, i))
			}
			db.Exec(b, `ANALYZE`)
			h := serve(b, options(b, db.Pool(b), jobsRoute))
			body(b, h, "/jobs/job-1", http.StatusOK)
			b.ResetTimer()
			for b.Loop() {
				get(b, h, "/jobs/job-1")
			}
		})
	}
}
