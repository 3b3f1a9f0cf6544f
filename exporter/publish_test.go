package main

import (
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/matview/terraform-provider-matview/internal/cloudwatchtest"
)

// cloudWatch is a stand-in, to which the environment lets the SDK log in.
func cloudWatch(t *testing.T) (service *cloudwatchtest.Service, flags []string) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	service = &cloudwatchtest.Service{}
	server := httptest.NewServer(service)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	return service, []string{"--cloudwatch.namespace=S3Scanner", "--cloudwatch.region=eu-central-1", "--cloudwatch.endpoint-url=" + server.URL, "--cloudwatch.dimension=Database=app"}
}

// metricsOf are those that were taken, of one view.
func metricsOf(service *cloudwatchtest.Service, view string) []string {
	var names []string
	for _, d := range service.Taken() {
		if d.Dimensions["ViewName"] == view && !slices.Contains(names, d.Metric) {
			names = append(names, d.Metric)
		}
	}
	return names
}

func TestRefreshPublishesToCloudWatch(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS x; INSERT INTO materialized_view_refresh_log VALUES ('v', now() - interval '1 hour', 1000)`)
	service, flags := cloudWatch(t)
	if code, _, errs := exec(t, db.URL(), append([]string{"refresh", "v"}, flags...)...); code != exitOK {
		t.Fatal(errs)
	}
	for _, d := range service.Taken() {
		if d.Metric == "MatViewStaleness" && (d.Values[0] < 3600 || d.Values[0] > 3700) {
			t.Errorf("staleness must be that of before the refresh: %v", d)
		}
	}
	if got := metricsOf(service, "v"); !slices.Equal(got, []string{"MatViewStaleness", "MatViewRefreshDuration"}) {
		t.Errorf("%v", got)
	}
	service.Reset()
	db.Exec(t, `CREATE TABLE zero AS SELECT 0 AS x; CREATE MATERIALIZED VIEW broken AS SELECT 1 / x AS y FROM zero WITH NO DATA`)
	if code, _, _ := exec(t, db.URL(), append([]string{"refresh", "broken"}, flags...)...); code != exitFailed {
		t.Error("a failed refresh must fail")
	}
	if got := metricsOf(service, "broken"); !slices.Equal(got, []string{"MatViewRefreshFailure"}) {
		t.Errorf("%v", got)
	}
}

func TestDaemonPublishesToCloudWatch(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS x; INSERT INTO materialized_view_refresh_log VALUES ('v', now() - interval '1 hour', 1000);
INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('v', '1 day')`)
	service, flags := cloudWatch(t)
	d := startDaemon(t, db.URL(), "", flags...)
	eventually(t, "something is published", func() bool { return len(metricsOf(service, "v")) > 0 })
	eventually(t, "the publisher counts", func() bool {
		_, body := fetch(t, d.url+"/metrics")
		return strings.Contains(body, "matview_cloudwatch_publishes_total 1\n")
	})
	if code := d.stop(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	for _, datum := range service.Taken() {
		if datum.Dimensions["Database"] != "app" {
			t.Errorf("%v", datum)
		}
	}
}

// TestDimensionsOfTheFile come and change with it; the flag's win, and what
// CloudWatch would refuse stays out.
func TestDimensionsOfTheFile(t *testing.T) {
	db := installed(t)
	service, flags := cloudWatch(t)
	d := startDaemon(t, db.URL(), "cloudwatch:\n  dimensions: {Database: file, Stage: first}\n", append(flags, "--no-scheduler", "--web.enable-lifecycle")...)
	published := func(stage string) bool {
		return slices.ContainsFunc(service.Taken(), func(d cloudwatchtest.Datum) bool {
			return d.Dimensions["Database"] == "app" && d.Dimensions["Stage"] == stage
		})
	}
	eventually(t, "the file's dimension", func() bool { return published("first") })
	writeFile(t, d.config, "public: true\ncloudwatch:\n  dimensions:\n    ViewName: x\n")
	signalled := func() {
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	signalled()
	eventually(t, "the error says where", func() bool {
		return strings.Contains(d.log.String(), `exporter.yml:3: cloudwatch.dimensions: a dimension cannot be called`)
	})
	writeFile(t, d.config, "cloudwatch: {dimensions: {Stage: second}}\n")
	signalled()
	eventually(t, "they are changed", func() bool {
		return strings.Contains(d.log.String(), `destination="cloudwatch S3Scanner Database=app Stage=second"`)
	})
	code, out, errs := exec(t, db.URL(), "refresh", "--all", "--cloudwatch.namespace=n", "--cloudwatch.emf", "--cloudwatch.dimension=A=b", "--cloudwatch.dimension=C=d")
	if code != exitOK || !strings.Contains(out, `"Dimensions":[["A","C"]]`) {
		t.Errorf("%d %s %s", code, out, errs)
	}
}

func TestEMFOnStandardOutput(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS x`)
	code, out, errs := exec(t, db.URL(), "refresh", "v", "--cloudwatch.namespace=S3Scanner", "--cloudwatch.emf")
	if code != exitOK || !strings.Contains(out, `"MatViewRefreshDuration":`) || !strings.Contains(out, `"CloudWatchMetrics":[`) {
		t.Errorf("%d %s %s", code, out, errs)
	}
}

func TestCloudWatchFlags(t *testing.T) {
	db := installed(t)
	for message, args := range map[string][]string{
		"--cloudwatch.emf requires --cloudwatch.namespace": {"--cloudwatch.emf"},
		`there is no optional metric "Jobs"`:               {"--cloudwatch.emf", "--cloudwatch.namespace=n", "--cloudwatch.metrics=Jobs"},
		"belong to AWS":                                    {"--cloudwatch.emf", "--cloudwatch.namespace=AWS/RDS"},
	} {
		code, _, errs := exec(t, db.URL(), append([]string{"refresh", "--all"}, args...)...)
		if code != exitFailed || !strings.Contains(errs, message) {
			t.Errorf("%d %s, want %s", code, errs, message)
		}
	}
}
