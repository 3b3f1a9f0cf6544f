package api_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

const (
	benchRows    = 1_000_000
	benchRounds  = 7
	benchRound   = 1500 * time.Millisecond
	benchClients = 16
	benchConns   = 10 // to the database, of each
)

// BenchmarkAPI is what `make bench-api` prints: rows over HTTP against a bare
// handler, in turns, so that a busy machine slows both.
func BenchmarkAPI(b *testing.B) {
	db := jobs(b)
	db.Exec(b, fmt.Sprintf(`DROP MATERIALIZED VIEW job_progress; CREATE MATERIALIZED VIEW job_progress AS
SELECT 'job-' || i AS job_id, 'processing'::text AS status, i AS total, i / 2 AS succeeded, 50.0::float8 AS progress_percent, now() AS updated_at
FROM generate_series(1, %d) AS i;
CREATE UNIQUE INDEX ON job_progress (job_id)`, benchRows))
	refreshView(b, db.Pool(b), "job_progress", "blocking")
	db.Exec(b, `VACUUM ANALYZE job_progress`)
	db.Exec(b, `ANALYZE`)
	h := serve(b, options(b, configured(b, db), jobsRoute))
	ours := listen(b, h)
	reference := listen(b, bareHandler(b, db))
	plain := rowRequests(b, h, false)
	tagged := rowRequests(b, h, true)

	rows := load{ours, benchClients, "200", plain}
	bare := load{reference, benchClients, "200", plain}
	unchanged := load{ours, benchClients, "304", tagged}
	aloneRow, aloneBare := load{ours, 1, "200", plain}, load{reference, 1, "200", plain}
	for _, l := range []load{rows, bare, unchanged} {
		l.run(b, benchRound)
	}
	compare(b, "row", rows, bare)
	compare(b, "304", unchanged, bare)
	compare(b, "304-to-own-rows", unchanged, rows)
	compare(b, "row-one-client", aloneRow, aloneBare)

	for i := range 999 {
		db.Exec(b, fmt.Sprintf(`CREATE MATERIALIZED VIEW other_%d AS SELECT 1 AS id; INSERT INTO materialized_view_refresh_log VALUES ('other_%[1]d', now(), 1)`, i))
	}
	db.Exec(b, `ANALYZE`)
	compare(b, "row-among-1000-views", rows, bare)
	benchSlow(b, rows, ours)
	benchMemory(b, h)
	benchPgbench(b, db, rows)
}

// compare prints the median of the rounds' ratios.
func compare(b *testing.B, name string, ours, reference load) float64 {
	b.Helper()
	var mine, theirs, ratios []float64
	for range benchRounds {
		m, r := ours.run(b, benchRound), reference.run(b, benchRound)
		mine, theirs, ratios = append(mine, m), append(theirs, r), append(ratios, m/r)
	}
	ratio := median(ratios)
	fmt.Printf("bench: %s ours=%.0f/s reference=%.0f/s ratio=%.2f\n", name, median(mine), median(theirs), ratio)
	return ratio
}

func median(of []float64) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[len(sorted)/2]
}

func benchSlow(b *testing.B, rows load, address string) {
	b.Helper()
	var slowed, free, ratios []float64
	for range benchRounds {
		stop := slowClients(b, address, 200, "/jobs/job-1")
		s := rows.run(b, benchRound)
		stop()
		f := rows.run(b, benchRound)
		slowed, free, ratios = append(slowed, s), append(free, f), append(ratios, s/f)
	}
	fmt.Printf("bench: 200-slow-clients ours=%.0f/s reference=%.0f/s ratio=%.2f\n", median(slowed), median(free), median(ratios))
}

// benchMemory compares what an answer allocates over this view with one over
// the 2,000 rows of the other tests.
func benchMemory(b *testing.B, large http.Handler) {
	b.Helper()
	db := jobs(b)
	refreshView(b, db.Pool(b), "job_progress", "blocking")
	small := serve(b, options(b, configured(b, db), jobsRoute))
	l, s := bytesPerRequest(b, large), bytesPerRequest(b, small)
	fmt.Printf("bench: bytes-allocated ours=%.0f (%d rows) reference=%.0f (2000 rows) ratio=%.2f\n", l, benchRows, s, l/s)
}

func bytesPerRequest(t testing.TB, h http.Handler) float64 {
	t.Helper()
	const n = 500
	var before, after runtime.MemStats
	get(t, h, "/jobs/job-1")
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range n {
		get(t, h, "/jobs/job-1")
	}
	runtime.ReadMemStats(&after)
	return float64(after.TotalAlloc-before.TotalAlloc) / n
}

// bareHandler is what somebody would write by hand: the plain SELECT, and the
// row as JSON. It says nothing of freshness.
func bareHandler(b *testing.B, db *postgrestest.Database) http.Handler {
	b.Helper()
	c, err := pgxpool.ParseConfig(db.URL())
	if err != nil {
		b.Fatal(err)
	}
	c.MaxConns = benchConns
	pool, err := pgxpool.NewWithConfig(b.Context(), c)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /jobs/{job_id}", func(w http.ResponseWriter, r *http.Request) {
		var row struct {
			JobID           string    `json:"job_id"`
			Status          string    `json:"status"`
			Total           int       `json:"total"`
			Succeeded       int       `json:"succeeded"`
			ProgressPercent float64   `json:"progress_percent"`
			UpdatedAt       time.Time `json:"updated_at"`
		}
		err := pool.QueryRow(r.Context(), "SELECT * FROM job_progress WHERE job_id = $1", r.PathValue("job_id")).
			Scan(&row.JobID, &row.Status, &row.Total, &row.Succeeded, &row.ProgressPercent, &row.UpdatedAt)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(row)
	})
	return mux
}

func listen(b *testing.B, h http.Handler) string {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it ends with its test
	if err != nil {
		b.Fatal(err)
	}
	// The limits of `run`.
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	b.Cleanup(func() { _ = server.Close() })
	return listener.Addr().String()
}

// rowRequests are for keys all over the view, with the ETag of each if tagged.
func rowRequests(b *testing.B, h http.Handler, tagged bool) [][]byte {
	b.Helper()
	requests := make([][]byte, 1000)
	for i := range requests {
		path := "/jobs/job-" + strconv.Itoa(1+i*(benchRows/len(requests)))
		if !tagged {
			requests[i] = request(path)
			continue
		}
		requests[i] = request(path, "If-None-Match: "+get(b, h, path).Header().Get("ETag"))
	}
	return requests
}

var tps = regexp.MustCompile(`tps = ([0-9.]+) \(without`)

// benchPgbench prints what part of the statements that pgbench gets through
// alone come out as rows over HTTP.
func benchPgbench(b *testing.B, db *postgrestest.Database, rows load) {
	b.Helper()
	program, err := exec.LookPath("pgbench")
	if err != nil {
		fmt.Println("bench: pgbench is not on PATH")
		return
	}
	script := filepath.Join(b.TempDir(), "row.sql")
	text := fmt.Sprintf("\\set n random(1, %d)\nSELECT * FROM job_progress WHERE job_id = 'job-' || :n;\n", benchRows)
	if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	var ratios, theirs, mine []float64
	for range 3 {
		out, err := exec.CommandContext(b.Context(), program, "-n", "-M", "prepared", "-c", strconv.Itoa(benchConns), "-j", "2", "-T", "2", "-f", script, db.URL()).CombinedOutput()
		found := tps.FindSubmatch(out)
		if err != nil || found == nil {
			b.Fatalf("pgbench: %v\n%s", err, out)
		}
		p, err := strconv.ParseFloat(string(found[1]), 64)
		if err != nil {
			b.Fatal(err)
		}
		m := rows.run(b, benchRound)
		theirs, mine, ratios = append(theirs, p), append(mine, m), append(ratios, m/p)
	}
	fmt.Printf("bench: pgbench-prepared ours=%.0f/s reference=%.0f/s ratio=%.2f\n", median(mine), median(theirs), median(ratios))
}
