package schedule

import (
	"fmt"
	"slices"
	"strings"
)

// reserved are the settings that a schedule may not make for its refreshes: as
// whom they run, and what a refresh relies on to find its view by the name that it
// has, and to leave no lock behind.
var reserved = []string{
	"role", "session_authorization",
	"client_encoding", "quote_all_identifiers",
	"client_connection_check_interval", "idle_in_transaction_session_timeout",
}

// CheckSettingName says why a schedule may not make a setting, or nil. The names of
// settings know no case.
func CheckSettingName(name string) error {
	name = strings.ToLower(name)
	if slices.Contains(reserved, name) || strings.HasPrefix(name, "matview.") {
		return fmt.Errorf("%q is not for a schedule to set: refreshes rely on it; remove it from settings", name)
	}
	return nil
}

// SafePath is a search_path in which the names of PostgreSQL's own functions, which
// a refresh calls with its own rights, mean these: where pg_catalog is listed, and
// only there, other schemas may come before it.
func SafePath(path string) string {
	if strings.Contains(strings.ToLower(path), "pg_catalog") {
		return "pg_catalog, " + path
	}
	return path
}
