package provider

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// wire passes on what goes to a server, and notes what that is asked.
type wire struct {
	server string
	mu     sync.Mutex
	logins int
	asked  []string // statements, once for each time that they are run
}

// between is the URL of a wire to the server of another URL.
func between(t *testing.T, databaseURL string) (*wire, string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	w := &wire{server: u.Host}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // closed
			}
			go w.pass(client)
		}
	}()
	u.Host = listener.Addr().String()
	return w, u.String()
}

func (w *wire) pass(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", w.server)
	if err != nil {
		return
	}
	defer server.Close()
	go func() { _, _ = io.Copy(client, server) }()
	prepared := map[string]string{}
	in := io.TeeReader(client, server)
	for first := true; ; first = false {
		header := make([]byte, 5)
		if first { // the startup message has no type
			header = header[1:]
		}
		if _, err := io.ReadFull(in, header); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(header[len(header)-4:])-4)
		if _, err := io.ReadFull(in, body); err != nil {
			return
		}
		w.note(header[0], bytes.Split(body, []byte{0}), first, prepared)
	}
}

// note takes the strings that a message of the protocol begins with.
func (w *wire) note(kind byte, parts [][]byte, first bool, prepared map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case first:
		w.logins++
	case kind == 'Q' && string(parts[0]) != "-- ping": // is the server there?
		w.asked = append(w.asked, string(parts[0]))
	case kind == 'P': // name, statement
		prepared[string(parts[0])] = string(parts[1])
	case kind == 'B': // portal, name
		w.asked = append(w.asked, prepared[string(parts[1])])
	}
}

// A plan of fifty views that have not changed is one statement, about all views with
// their indexes. It waits for no session that has locked a view, or what they all read.
func TestAccManyViewsReadTogether(t *testing.T) {
	if os.Getenv("TF_ACC") == "" {
		t.Skip("it runs terraform, as do the acceptance tests: set TF_ACC")
	}
	db := viewDatabase(t)
	wire, through := between(t, db.URL())
	w := newWorkspace(t, through, workspaceProvider+`
resource "matview_view" "many" {
  count      = 50
  name       = "many_${count.index}"
  definition = "SELECT id, name FROM jobs WHERE id > ${count.index}"
  indexes    = { "many_${count.index}_id" = { keys = ["id"], unique = true } }
}
`)
	w.run(t, "apply", "-auto-approve")
	holder := db.Connect(t)
	if _, err := holder.Exec(t.Context(), "BEGIN; REFRESH MATERIALIZED VIEW many_7; REFRESH MATERIALIZED VIEW many_8; LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	wire.mu.Lock()
	wire.asked, wire.logins = nil, 0
	wire.mu.Unlock()
	w.plan(t)
	wire.mu.Lock()
	defer wire.mu.Unlock()
	about := func(table string) int {
		return len(slices.DeleteFunc(slices.Clone(wire.asked), func(sql string) bool { return !strings.Contains(sql, "\nFROM "+table+" AS ") }))
	}
	if len(wire.asked) != 1 || about("pg_class") != 1 || wire.logins != 1 {
		t.Errorf("%d logins, which ask %q", wire.logins, wire.asked)
	}
}
