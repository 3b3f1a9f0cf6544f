package refresh

import (
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgerrcode"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

// Method is how a view is refreshed.
type Method string

// The methods that views are refreshed by.
const (
	Auto         Method = "auto"
	Blocking     Method = "blocking"
	Concurrently Method = "concurrently"
	Swap         Method = "swap"
)

// Methods are the names that [ParseMethod] reads.
var Methods = []string{string(Auto), string(Blocking), string(Concurrently), string(Swap)}

// ParseMethod reads a method as schedules and command lines name it.
func ParseMethod(s string) (Method, error) {
	switch m := Method(s); m {
	case Auto, Blocking, Concurrently, Swap:
		return m, nil
	case "":
		return Auto, nil
	default:
		return "", fmt.Errorf("method %q is not one of auto, blocking, concurrently, swap", s)
	}
}

func (m Method) statement(view matview.Name) string {
	if m == Concurrently {
		return "REFRESH MATERIALIZED VIEW CONCURRENTLY " + view.SQL()
	}
	return "REFRESH MATERIALIZED VIEW " + view.SQL()
}

// choice is the method of a try, and why.
type choice struct {
	method  Method
	reason  string // "": as asked
	instead Method // of a swap that turns out to be impossible; "" if none
}

// choose settles the method. wanted.method may be [Auto].
func choose(wanted choice, f facts) (choice, error) {
	if wanted.method == Auto {
		return f.choose(), nil
	}
	if wanted.reason == "" {
		wanted.reason = "as asked"
	}
	switch {
	case wanted.method != Blocking && !f.Populated:
		return firstPopulation, nil
	case wanted.method == Concurrently && !f.UniqueIndex:
		return choice{}, &statedError{fmt.Errorf(
			"concurrently needs a unique index on plain columns without WHERE, and the view has none; create one, such as CREATE UNIQUE INDEX ON %s (KEY_COLUMNS), or use another method",
			f.name().SQL()), pgerrcode.ObjectNotInPrerequisiteState}
	}
	_, err := ParseMethod(string(wanted.method))
	return wanted, err
}

// Nobody can read it yet, so that there is nobody to block.
var firstPopulation = choice{method: Blocking, reason: "first population"}

const (
	// quickBlock is how long readers may be blocked for if the alternative is to
	// exchange the view, which also costs something.
	quickBlock = 100 * time.Millisecond
	// quickConcurrent is how long a concurrent refresh may take before the other
	// methods are considered.
	quickConcurrent = 500 * time.Millisecond
	// smallChange is the share of changed rows up to which writing only these is
	// worth the time that finding them takes.
	smallChange = 0.1
)

// choose is the method of auto, by the catalog and the history only: what prevents
// a swap is found when one is tried.
func (f facts) choose() choice {
	swap := func(reason string, instead Method) choice {
		return choice{method: Swap, reason: reason, instead: instead}
	}
	last := f.Recent.Concurrent
	switch {
	case !f.Populated:
		return firstPopulation
	case !f.UniqueIndex || f.NotConcurrently != "":
		why := f.NotConcurrently
		if !f.UniqueIndex {
			why = "the view has no unique index on plain columns without WHERE, which concurrently would need"
		}
		took := f.Recent.Blocking
		if took == nil || f.Recent.Swap != nil && *f.Recent.Swap < *took {
			took = f.Recent.Swap
		}
		switch {
		case took == nil:
			return swap(why+", and how long readers would be blocked for is not known yet", Blocking)
		case *took < quickBlock:
			return choice{method: Blocking, reason: fmt.Sprintf("%s, and the last refresh took %s only", why, short(*took))}
		case f.Recent.SwapRefused:
			return choice{method: Blocking, reason: fmt.Sprintf("%s, and one of the last %d refreshes could not be a swap", why, swapRefusalsRemembered)}
		default:
			return swap(fmt.Sprintf("%s, and a blocking one would block readers for %s", why, short(*took)), Blocking)
		}
	case last == nil:
		return choice{method: Concurrently, reason: fmt.Sprintf("it has a unique index, so that readers need not wait, and none of the last %d refreshes shows how much changes", recentRefreshes)}
	case last.Duration < quickConcurrent:
		return choice{method: Concurrently, reason: fmt.Sprintf("it has a unique index, and the last concurrent refresh took %s only", short(last.Duration))}
	}
	share, text := last.share(f.Rows)
	text = fmt.Sprintf("the last concurrent refresh changed %s and took %s", text, short(last.Duration))
	switch {
	case share <= smallChange:
		return choice{method: Concurrently, reason: text}
	case f.Recent.Swap != nil && *f.Recent.Swap >= last.Duration:
		return choice{method: Concurrently, reason: fmt.Sprintf("%s, where the last swap took %s", text, short(*f.Recent.Swap))}
	case f.Recent.SwapRefused:
		return choice{method: Concurrently, reason: fmt.Sprintf("%s, and one of the last %d refreshes could not be a swap", text, swapRefusalsRemembered)}
	default:
		return swap(text, Concurrently)
	}
}

// concurrent is a concurrent refresh as the history has it.
type concurrent struct {
	Duration          time.Duration
	Inserted, Deleted int64
}

// share is how much of the view changed. rows are those that it had when it was
// last analyzed; -1 or 0 where it never was.
func (c concurrent) share(rows float64) (share float64, text string) {
	changed := float64(max(c.Inserted, c.Deleted)) // a changed row is in both
	rows = max(rows, float64(c.Inserted))
	if rows <= 0 {
		return 0, "nothing"
	}
	share = min(changed/rows, 1)
	percent := math.Round(share*1000) / 10
	if percent >= 10 {
		percent = math.Round(percent)
	}
	return share, fmt.Sprintf("%g%% of %s rows", percent, abbreviate(rows))
}

func abbreviate(n float64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1fG", n/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1fM", n/1e6)
	case n >= 1e4:
		return fmt.Sprintf("%.0fk", n/1e3)
	default:
		return fmt.Sprintf("%.0f", n)
	}
}

func short(d time.Duration) string {
	if d >= time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%d ms", d.Milliseconds())
}
