// Package postgrestest runs throwaway PostgreSQL servers for the tests and for
// the demo. It needs a Unix system.
//
// A test asks for a database and gets one of its own:
//
//	db := postgrestest.New(t)
//	db.Exec(t, `CREATE MATERIALIZED VIEW one AS SELECT 1`)
//	conn := db.Connect(t)
//
// The first such call starts the server, which the whole test binary shares; no
// TestMain is needed. It is the first of these that exists:
//
//  1. the server at MATVIEW_TEST_DATABASE_URL, the URL of a superuser. It is
//     never started or stopped; only databases and roles named matview_test_* are
//     created and dropped on it;
//  2. the binaries in the directory MATVIEW_TEST_POSTGRES_BIN;
//  3. the binaries on PATH, or else the newest in the usual directories;
//  4. Debian's package, which is installed if the tests run as root.
//
// If there is none, the test fails and says what to install; it is never skipped.
//
// A server ends with the process that started it, however that ends: kill -9
// leaves neither a process nor a directory behind. See the watchdog.
//
// The directory of a server is in TMPDIR if that is set, else in /dev/shm if
// there is enough room, else in /tmp.
package postgrestest
