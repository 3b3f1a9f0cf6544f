package publish_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/matview/terraform-provider-matview/exporter/publish"
	"github.com/matview/terraform-provider-matview/internal/cloudwatchtest"
	"github.com/matview/terraform-provider-matview/internal/freshness"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
	"github.com/matview/terraform-provider-matview/internal/store"
	"github.com/matview/terraform-provider-matview/migrations"
)

const (
	minuteViews  = 1000
	benchMinutes = 20
	// The targets.
	mostCalls = 8
	mostCPU   = 50 * time.Millisecond
)

// standInVariable makes this test binary serve as CloudWatch, so that the cost of
// serving does not count as ours.
const standInVariable = "MATVIEW_BENCH_CLOUDWATCH"

func TestMain(m *testing.M) {
	if os.Getenv(standInVariable) == "" {
		os.Exit(m.Run())
	}
	service := &cloudwatchtest.Service{}
	mux := http.NewServeMux()
	mux.Handle("/", service)
	mux.HandleFunc("/calls", func(w http.ResponseWriter, _ *http.Request) {
		for _, c := range service.Calls() {
			fmt.Fprintf(w, "%d %d %q\n", c.Datums, c.Bytes, c.Refused)
		}
		service.Reset()
	})
	fmt.Println(httptest.NewServer(mux).URL)
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // ends with its parent
}

func standIn(b *testing.B) (url string) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), standInVariable+"=1")
	if _, err := cmd.StdinPipe(); err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// BenchmarkMinute measures what a minute of a thousand views costs this process, each
// view refreshed once: the claim, the statement, the calls.
func BenchmarkMinute(b *testing.B) {
	db := postgrestest.NewFrom(b, "thousand recorded", func(ctx context.Context, conn *pgx.Conn) error {
		if err := migrations.Apply(ctx, conn, "public"); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, fmt.Sprintf(`
DO $$ BEGIN FOR i IN 1..%d LOOP EXECUTE format('CREATE MATERIALIZED VIEW view_%%s AS SELECT 1 AS x', i); END LOOP; END $$;
INSERT INTO materialized_view_refresh_schedule (view_name, every) SELECT relname, '1 min' FROM pg_class WHERE relkind = 'm';
INSERT INTO materialized_view_refresh_log SELECT relname, now(), 42, 150, 1250000 FROM pg_class WHERE relkind = 'm'; ANALYZE`, minuteViews))
		return err
	})
	b.Setenv("AWS_ACCESS_KEY_ID", "test")
	b.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	url := standIn(b)
	api, err := publish.NewCloudWatchAPI(b.Context(), "eu-central-1", url)
	if err != nil {
		b.Fatal(err)
	}
	pool := db.Pool(b)
	metrics, err := publish.NewCloudWatchMetrics("S3Scanner", nil, nil, "")
	if err != nil {
		b.Fatal(err)
	}
	p := publish.New(publish.Options{
		Sink: &publish.CloudWatch{CloudWatchMetrics: metrics, API: api}, Metrics: publish.NewMetrics(prometheus.NewRegistry(), "cloudwatch"),
		Logger: slog.New(slog.DiscardHandler), Now: time.Now, Reader: freshness.NewReader(pool, "public", 5*time.Second, time.Now),
		Claims: store.New("public").Publication(pool),
	})
	p.Collect(b.Context())
	p.Flush(b.Context())
	callsOf(b, url)
	for range b.N {
		var cpu []time.Duration
		calls, datums := 0, 0
		for range benchMinutes {
			db.Exec(b, `UPDATE materialized_view_refresh_publication SET minute = minute - interval '1 min';
INSERT INTO materialized_view_refresh_history (view_name, trigger, outcome, started_at, data_as_of, finished_at, duration_ms)
SELECT view_name, 'schedule', 'succeeded', clock_timestamp(), clock_timestamp(), clock_timestamp(), 42 FROM materialized_view_refresh_log`)
			before := processorTime(b)
			p.Collect(b.Context())
			p.Flush(b.Context())
			cpu = append(cpu, processorTime(b)-before)
			n, d := callsOf(b, url)
			calls, datums = max(calls, n), max(datums, d)
		}
		slices.Sort(cpu)
		used := cpu[len(cpu)/2]
		fmt.Printf("\nbench: cloudwatch-%d-views-cpu ours=%s reference=%s ratio=%.2f\n", minuteViews, used.Round(10*time.Microsecond), mostCPU, float64(used)/float64(mostCPU))
		fmt.Printf("bench: cloudwatch-%d-views-calls ours=%d reference=%d ratio=%.2f datums=%d\n", minuteViews, calls, mostCalls, float64(calls)/mostCalls, datums)
	}
}

// processorTime is the CPU time of all threads of this process.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// callsOf counts the calls to the stand-in since the last time, and their data points.
func callsOf(b *testing.B, url string) (calls, datums int) {
	b.Helper()
	resp, err := http.Get(url + "/calls")
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); calls++ {
		var n, size int
		var refused string
		if _, err := fmt.Sscanf(lines.Text(), "%d %d %q", &n, &size, &refused); err != nil || refused != "" {
			b.Fatalf("%v: %s", err, lines.Text())
		}
		datums += n
	}
	return calls, datums
}
