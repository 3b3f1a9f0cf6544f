package postgres_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgerrcode"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// A password that is rotated in its file needs no restart.
func TestRotatedPasswordFile(t *testing.T) {
	db := postgrestest.New(t)
	role, password := db.Role(t, "")
	u, err := url.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	file := filepath.Join(t.TempDir(), "passwords")
	write := func(password string) {
		t.Helper()
		if err := os.WriteFile(file, fmt.Appendf(nil, "*:*:*:%s:%s\n", role, password), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(password)
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: u.String() + "&passfile=" + url.QueryEscape(file)})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := pool.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "ALTER ROLE "+role+" PASSWORD 'rotated'")
	pool.Reset()
	if err := pool.Ping(t.Context()); postgres.SQLState(err) != pgerrcode.InvalidPassword {
		t.Skipf("this server asks for no password: %v", err)
	}
	write("rotated")
	if err := pool.Ping(t.Context()); err != nil {
		t.Errorf("after the rotation: %v", err)
	}
}
