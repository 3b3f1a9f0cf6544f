package postgres

import (
	"fmt"
	"slices"
)

// TestedMajors are the majors of PostgreSQL that every test has run on. What we
// read of the server's internals is known for these only:
//
//   - the fields and nodes of pg_rewrite.ev_action (internal/refresh/query_inputs.sql);
//   - that every REFRESH changes the view's pg_class row, which tells a refresh by
//     somebody else (materialized_view_server_is_tested in migrations);
//   - how definitions are written back (internal/matview).
//
// A new major is added here, in materialized_view_server_is_tested and in
// scripts/test-matrix.sh, once `scripts/test-matrix.sh MAJOR` passes.
var TestedMajors = []int{13, 14, 15, 16, 17, 18}

// MinMajorForSkipping is the first major whose sessions do not keep their counts of
// changes to themselves without a limit.
const MinMajorForSkipping = 15

// CheckTested says that a server, by its server_version_num, is of a major that
// this program has not been tested with; nil if it has.
func CheckTested(version int) error {
	if major := version / 10000; !slices.Contains(TestedMajors, major) {
		return fmt.Errorf("the server is PostgreSQL %d, and this program is tested with %d to %d", major, slices.Min(TestedMajors), slices.Max(TestedMajors))
	}
	return nil
}
