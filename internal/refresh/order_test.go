package refresh_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/matview/terraform-provider-matview/internal/refresh"
)

func TestReadsThroughViewsAndMaterializedViews(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE SCHEMA "Sub.Schema"; CREATE TABLE t (id int);
CREATE MATERIALIZED VIEW "a.a" AS SELECT id FROM t;
CREATE VIEW plain AS SELECT id FROM "a.a"; CREATE VIEW plainer AS SELECT id FROM plain;
CREATE MATERIALIZED VIEW "Sub.Schema".b AS SELECT id FROM plainer UNION ALL SELECT id FROM t;
CREATE MATERIALIZED VIEW c AS SELECT id FROM "Sub.Schema".b;
CREATE MATERIALIZED VIEW alone AS SELECT id FROM t;`)
	reads, err := refresh.ReadReads(t.Context(), db.Pool(t), "public")
	if err != nil {
		t.Fatal(err)
	}
	const a, b = `"a.a"`, `"Sub.Schema".b`
	if len(reads) != 2 || !slices.Equal(reads["c"], []string{b}) || !slices.Equal(reads[b], []string{a}) {
		t.Errorf("reads %v", reads)
	}
	if got := reads.Upstreams("c"); !slices.Equal(got, []string{a, b}) {
		t.Errorf("upstreams of c: %v", got)
	}
	// c reads a only through b, which is not among them.
	if got := reads.Sort([]string{"c", "alone", a}); !slices.Equal(got, []string{a, "c", "alone"}) {
		t.Errorf("order %v", got)
	}
}

func TestEachGoesInOrderAndSideBySide(t *testing.T) {
	t.Parallel()
	reads := refresh.Reads{"b": {"a"}, "c": {"x"}, "x": {"b"}, "e": {"d"}} // x is not asked for
	var mu sync.Mutex
	var began []string
	failed := map[string]string{}
	met := make(chan struct{})
	arrive := sync.OnceFunc(func() { close(met) })
	reads.Each(t.Context(), []string{"e", "c", "b", "a", "d"}, 2, func(_ context.Context, view string, upstream *refresh.UpstreamError) error {
		mu.Lock()
		began = append(began, view)
		if upstream != nil {
			failed[view] = upstream.Error()
		}
		mu.Unlock()
		switch {
		case view == "d": // ends only once another has begun beside it
			<-met
		case view == "a":
			arrive()
			return errors.New("refresh a: out of fuel")
		case upstream != nil:
			return upstream
		}
		return nil
	})
	if len(began) != 5 {
		t.Fatalf("began %v", began)
	}
	for _, pair := range [][2]string{{"d", "e"}, {"a", "b"}, {"b", "c"}} {
		if slices.Index(began, pair[0]) > slices.Index(began, pair[1]) {
			t.Errorf("%s began before %s: %v", pair[1], pair[0], began)
		}
	}
	const want = "UPSTREAM: refresh of a failed: out of fuel"
	if failed["b"] != want || failed["c"] != want || len(failed) != 2 {
		t.Errorf("failed %v", failed)
	}
}

func TestEachBeginsNoMoreOnceInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	var began []string
	refresh.Reads{}.Each(ctx, []string{"a", "b"}, 1, func(_ context.Context, view string, _ *refresh.UpstreamError) error {
		began = append(began, view)
		cancel()
		return nil
	})
	if !slices.Equal(began, []string{"a"}) {
		t.Errorf("began %v", began)
	}
}

func TestUpstreamFailureIsRecorded(t *testing.T) {
	db := installed(t)
	db.Exec(t, jobs)
	pool := db.Pool(t)
	why := refresh.NewUpstreamError("other", errors.New("refresh other: out of fuel"))
	err := refresh.New(pool, "public", "test").RecordUpstream(t.Context(), manual("job_progress", refresh.Auto), why)
	if upstream := new(refresh.UpstreamError); !errors.As(err, &upstream) || upstream != why {
		t.Errorf("err = %v", err)
	}
	if v := fresh(t, pool, "job_progress"); *v.LastOutcome != "failed" || *v.LastError != "UPSTREAM: refresh of other failed: out of fuel" || v.ConsecutiveFailures != 1 {
		t.Errorf("freshness %+v", v)
	}
	if reason := scan[string](t, pool, `SELECT reason FROM materialized_view_refresh_history WHERE outcome = 'failed'`); !strings.HasPrefix(reason, "UPSTREAM: ") {
		t.Errorf("reason %q", reason)
	}
}
