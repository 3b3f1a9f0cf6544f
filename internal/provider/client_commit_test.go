package provider

import (
	"bytes"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tftypes"
	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// cutAtCommit is the URL of a way to the server on which the answer to the nth
// COMMIT after arm never comes: the server is not heard of again, or the connection is cut.
func cutAtCommit(t *testing.T, db *postgrestest.Database, nth int, silently bool) (url string, arm func()) {
	t.Helper()
	server, err := pgx.ParseConfig(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	network, address := "tcp", net.JoinHostPort(server.Host, strconv.Itoa(int(server.Port)))
	if strings.HasPrefix(server.Host, "/") {
		network, address = "unix", server.Host+"/.s.PGSQL."+strconv.Itoa(int(server.Port))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	var armed atomic.Bool
	var commits atomic.Int64
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial(network, address)
			if err != nil {
				_ = from.Close()
				continue
			}
			t.Cleanup(func() { _, _ = from.Close(), to.Close() })
			cut := make(chan struct{})
			go func() {
				defer to.Close()
				buffer := make([]byte, 1<<16)
				for {
					n, err := from.Read(buffer)
					if armed.Load() && bytes.HasPrefix(buffer[:n], []byte("Q")) && bytes.Contains(buffer[:n], []byte("commit\x00")) {
						if commits.Add(1) == int64(nth) {
							close(cut)
						}
					}
					if _, writeErr := to.Write(buffer[:n]); err != nil || writeErr != nil {
						return
					}
				}
			}()
			go func() {
				defer from.Close()
				buffer := make([]byte, 1<<16)
				for {
					n, err := to.Read(buffer)
					select {
					case <-cut:
						if silently {
							_, _ = io.Copy(io.Discard, to)
						}
						return
					default:
					}
					if _, writeErr := from.Write(buffer[:n]); err != nil || writeErr != nil {
						return
					}
				}
			}()
		}
	}()
	return "postgres://" + server.User + ":" + server.Password + "@" + l.Addr().String() + "/" + server.Database + "?sslmode=disable", func() { armed.Store(true) }
}

// A change whose COMMIT was not answered may have been made: nothing says that
// nothing was changed, and nothing is tried again.
func TestCommitWithoutAnswer(t *testing.T) {
	soon := func(operation string) map[string]tftypes.Value {
		values := map[string]tftypes.Value{}
		for _, name := range []string{"create", "update", "delete"} {
			values[name] = tftypes.NewValue(tftypes.String, nil)
		}
		values[operation] = tftypes.NewValue(tftypes.String, "3s")
		return values
	}
	const view = "SELECT count(*) = 30 FROM job_progress"
	first := map[string]any{"name": "job_progress", "definition": "SELECT id FROM jobs"}
	for name, c := range map[string]struct {
		before, change map[string]any
		nth            int
		silently       bool
		done           string
		want           []string
	}{
		"create, cut": {
			nil, first, 1, false, view, []string{"it is unknown whether the transaction was committed", "the connection to the server was lost", "Plan again"},
		},
		"create, silent": {
			nil,
			map[string]any{"name": "job_progress", "definition": "SELECT id FROM jobs", "timeouts": soon("create")},
			1, true,
			view,
			[]string{"whether it was done is not known", "Plan again"},
		},
		"swap, silent afterwards": {
			first,
			map[string]any{"name": "job_progress", "definition": "SELECT id, 1 AS n FROM jobs", "timeouts": soon("update")},
			2, true,
			"SELECT sum(n) = 30 FROM job_progress",
			[]string{"job_progress was replaced by a view of the new definition", "Plan again"},
		},
		"destroy, cut": {first, nil, 1, false, "SELECT to_regclass('job_progress') IS NULL", []string{"it is unknown whether the transaction was committed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := viewDatabase(t)
			applyChange(t, configured(t, db.URL()), "matview_refresh_log", applied{}, map[string]any{})
			var before applied
			if c.before != nil {
				before = applyChange(t, configured(t, db.URL()), "matview_view", before, c.before)
			}
			url, arm := cutAtCommit(t, db, c.nth, c.silently)
			apply := planChange(t, configured(t, url), "matview_view", before, c.change)
			arm()
			_, err := apply()
			if err == nil {
				t.Fatal("no error")
			}
			t.Log(err)
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %q", err, want)
				}
			}
			if strings.Contains(strings.ToLower(err.Error()), "nothing was changed") {
				t.Errorf("%v", err)
			}
			if got := valueOf(t, db, c.done); got != "true" {
				t.Errorf("%s: %s", c.done, got)
			}
		})
	}
}
