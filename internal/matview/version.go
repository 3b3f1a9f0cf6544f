package matview

import (
	"fmt"

	"github.com/jackc/pgx/v5"
)

// What a new major of PostgreSQL may change for this package, and the test that then
// fails. A comment or a constant names the major wherever the supported ones differ.
//
//   - properties of a view, its columns, indexes and statistics, which a swap must carry
//     over (properties.go): TestSwapCarriesOver compares the rows of the catalog
//   - columns of pg_index that change by themselves (readSQL): TestRefreshLeavesHashes
//   - settings that the text of a deparsed query depends on (pinSQL):
//     TestNormalizeUnderSettings; the text itself: TestStoredIsNormal, TestIndexKeys
//   - is_usable_unique_index in matview.c ([ConcurrentIndexSQL]): TestConcurrentIndex
//   - functions of the server that report an error in a query (explainQuery and
//     [SQLError.Missing]): TestNormalizeRefuses, and TestPlanErrors of the provider
//   - the lexer, scan.l ([SameText]): TestSameTextIsSameMeaning of the provider
//   - names of system columns (refuseColumns): TestNormalizeRefuses
//   - locks of ALTER, CREATE INDEX and REFRESH: TestSwapUnderLongReader,
//     TestIndexBuildLocks, TestIndexBuildAndRefresh, TestReadDuringRefresh

// setPrivilegeSQL is the privilege to SET ROLE to a role. PostgreSQL 16 and later grant
// it apart from membership.
const setPrivilegeSQL = `CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END`

// The first majors that can change the access method of a view in place, and that have
// NULLS NOT DISTINCT.
const (
	accessMethodInPlace = 15
	nullsNotDistinct    = 15
)

// major is the major version that the server has reported at the start of the session;
// 0 if a pooler hides it.
func major(tx pgx.Tx) (major int) {
	_, _ = fmt.Sscanf(tx.Conn().PgConn().ParameterStatus("server_version"), "%d", &major)
	return major
}
