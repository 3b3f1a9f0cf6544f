package refresh

import (
	"fmt"

	"github.com/matview/terraform-provider-matview/internal/matview"
)

// Method is how a view is refreshed.
type Method string

// The methods of this release.
const (
	Auto         Method = "auto"
	Blocking     Method = "blocking"
	Concurrently Method = "concurrently"
)

// ParseMethod reads a method as schedules and command lines name it.
func ParseMethod(s string) (Method, error) {
	switch m := Method(s); m {
	case Auto, Blocking, Concurrently:
		return m, nil
	case "":
		return Auto, nil
	default:
		return "", fmt.Errorf("method %q is not one of auto, blocking, concurrently", s)
	}
}

func (m Method) statement(view matview.Name) string {
	if m == Concurrently {
		return "REFRESH MATERIALIZED VIEW CONCURRENTLY " + view.SQL()
	}
	return "REFRESH MATERIALIZED VIEW " + view.SQL()
}

// choose settles the method and says why.
func choose(wanted Method, f facts) (method Method, reason string, err error) {
	if _, err := ParseMethod(string(wanted)); err != nil {
		return "", "", err
	}
	switch {
	case wanted == Blocking:
		return Blocking, "as asked", nil
	case !f.Populated:
		// Nobody can read it yet, so that there is nobody to block.
		return Blocking, "first population", nil
	case f.UniqueIndex && wanted == Concurrently:
		return Concurrently, "as asked", nil
	case f.UniqueIndex:
		return Concurrently, "it has a unique index, so that readers need not wait", nil
	case wanted == Concurrently:
		return "", "", fmt.Errorf(
			"concurrently needs a unique index on plain columns without WHERE, and the view has none; create one, such as CREATE UNIQUE INDEX ON %s (KEY_COLUMNS), or use method blocking",
			f.name().SQL())
	default:
		return Blocking, "it has no unique index on plain columns without WHERE, which concurrently would need", nil
	}
}
