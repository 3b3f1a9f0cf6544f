package matview

// What a new major of PostgreSQL may change for this package, and which test fails
// then. Differences between the supported majors are handled where a comment or a
// message contains "PostgreSQL" and the number of the major.
//
//   - properties of a view, its columns, its indexes or its statistics that a swap
//     must carry over (properties.go): TestSwapCarriesOver compares the whole rows
//     of the catalog
//   - columns of pg_index that change by themselves (readSQL): TestRefreshLeavesHashes
//   - settings that the text of a deparsed query depends on (pinSQL):
//     TestNormalizeUnderSettings; and its layout: TestStoredIsNormal, TestIndexKeys
//   - is_usable_unique_index in matview.c ([ConcurrentIndexSQL]): TestConcurrentIndex
//   - functions of the parser that report an error (explainQuery and
//     [SQLError.Missing]): TestNormalizeRefuses
//   - tokens of the lexer, scan.l ([SameText])
//   - names of system columns (refuseColumns): TestNormalizeRefuses
//   - locks of ALTER, CREATE INDEX and REFRESH: TestIndexBuildLocks,
//     TestIndexBuildAndRefresh, TestReadDuringRefresh
//   - REFRESH … CONCURRENTLY that leaves the row of pg_class as it was

const (
	// setPrivilegeSQL is the privilege to SET ROLE to a role, which PostgreSQL 16 and
	// later grant apart from membership.
	setPrivilegeSQL = `CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END`

	// accessMethodInPlace is the first major that can change the access method of a
	// view in place.
	accessMethodInPlace = 15
)
