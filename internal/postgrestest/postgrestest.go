// Package postgrestest runs throwaway PostgreSQL servers, for the tests and
// for the demo.
//
// A test asks for a database and gets one of its own:
//
//	db := postgrestest.New(t)
//	db.Exec(t, `CREATE MATERIALIZED VIEW one AS SELECT 1`)
//	conn := db.Connect(t)
//
// The server behind it is started at the first such call and shared by the
// whole test binary; using packages need no TestMain. The first of these that
// exists is used:
//
//  1. the server at MATVIEW_TEST_DATABASE_URL (a superuser's URL), which is
//     never started or stopped, and on which only databases and roles named
//     matview_test_* are created and dropped;
//  2. the binaries in the folder MATVIEW_TEST_POSTGRES_BIN, or else those on
//     the machine: in PATH, where pg_config points, where the distributions
//     put them (the newest major version first);
//  3. Debian's package, installed with apt-get when running as root;
//  4. the binaries that github.com/fergusstrange/embedded-postgres downloads.
//
// If all fail the test fails, saying what to install; it is never skipped.
//
// Servers end with the process that started them, however it ends: kill -9
// leaves neither a process nor a folder behind. See the watchdog.
//
// Their folders are in TMPDIR if the server's user can reach that, else in
// /tmp. Creating databases is mostly creating files: TMPDIR=/dev/shm makes it
// several times faster on a slow disk.
package postgrestest
