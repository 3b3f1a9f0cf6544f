package refresh

import (
	"testing"
	"time"
)

func TestChoose(t *testing.T) {
	took := func(d time.Duration) *time.Duration { return &d }
	changed := func(d time.Duration, inserted, deleted int64) *concurrent { return &concurrent{d, inserted, deleted} }
	const noIndex = "the view has no unique index on plain columns without WHERE, which concurrently would need, and "
	for _, c := range []struct {
		f    facts
		want choice
	}{
		{facts{UniqueIndex: true, Recent: recent{Concurrent: changed(time.Hour, 1, 1)}}, choice{Blocking, "first population", ""}},
		{facts{Populated: true}, choice{Swap, noIndex + "how long readers would be blocked for is not known yet", Blocking}},
		{facts{Populated: true, Recent: recent{Blocking: took(4 * time.Millisecond)}}, choice{Blocking, noIndex + "the last refresh took 4 ms only", ""}},
		// A swap takes longer than blocking would.
		{facts{Populated: true, Recent: recent{Blocking: took(120 * time.Millisecond), Swap: took(90 * time.Millisecond)}}, choice{Blocking, noIndex + "the last refresh took 90 ms only", ""}},
		{facts{Populated: true, Recent: recent{Blocking: took(30 * time.Second)}}, choice{Swap, noIndex + "a blocking one would block readers for 30.0 s", Blocking}},
		{facts{Populated: true, Recent: recent{Blocking: took(30 * time.Second), SwapRefused: true}}, choice{Blocking, noIndex + "one of the last 5 refreshes could not be a swap", ""}},
		{
			facts{Populated: true, UniqueIndex: true, Recent: recent{Blocking: took(time.Minute)}, NotConcurrently: "it might lose rows"},
			choice{Swap, "it might lose rows, and a blocking one would block readers for 60.0 s", Blocking},
		},
		{
			facts{Populated: true, UniqueIndex: true, Recent: recent{Blocking: took(time.Hour), Swap: took(time.Second)}},
			choice{Concurrently, "it has a unique index, so that readers need not wait, and none of the last 20 refreshes shows how much changes", ""},
		},
		{
			facts{Populated: true, UniqueIndex: true, Rows: 10, Recent: recent{Concurrent: changed(12*time.Millisecond, 10, 10)}},
			choice{Concurrently, "it has a unique index, and the last concurrent refresh took 12 ms only", ""},
		},
		{
			facts{Populated: true, UniqueIndex: true, Rows: 1e6, Recent: recent{Concurrent: changed(9700*time.Millisecond, 3000, 2999)}},
			choice{Concurrently, "the last concurrent refresh changed 0.3% of 1.0M rows and took 9.7 s", ""},
		},
		{
			facts{Populated: true, UniqueIndex: true, Rows: 1e6, Recent: recent{Concurrent: changed(9700*time.Millisecond, 480_000, 470_000)}},
			choice{Swap, "the last concurrent refresh changed 48% of 1.0M rows and took 9.7 s", Concurrently},
		},
		{
			facts{Populated: true, UniqueIndex: true, Rows: 1e6, Recent: recent{Concurrent: changed(9700*time.Millisecond, 480_000, 480_000), Swap: took(12 * time.Second)}},
			choice{Concurrently, "the last concurrent refresh changed 48% of 1.0M rows and took 9.7 s, where the last swap took 12.0 s", ""},
		},
		{
			facts{Populated: true, UniqueIndex: true, Rows: 1e6, Recent: recent{Concurrent: changed(9700*time.Millisecond, 480_000, 480_000), SwapRefused: true}},
			choice{Concurrently, "the last concurrent refresh changed 48% of 1.0M rows and took 9.7 s, and one of the last 5 refreshes could not be a swap", ""},
		},
		// Never analyzed; emptied.
		{
			facts{Populated: true, UniqueIndex: true, Rows: -1, Recent: recent{Concurrent: changed(time.Minute, 20_000, 0)}},
			choice{Swap, "the last concurrent refresh changed 100% of 20k rows and took 60.0 s", Concurrently},
		},
		{
			facts{Populated: true, UniqueIndex: true, Rows: 0, Recent: recent{Concurrent: changed(time.Minute, 0, 0)}},
			choice{Concurrently, "the last concurrent refresh changed nothing and took 60.0 s", ""},
		},
	} {
		got, err := choose(choice{method: Auto}, c.f)
		if err != nil || got != c.want {
			t.Errorf("%+v:\n got %+v, %v\nwant %+v", c.f, got, err, c.want)
		}
	}
}
