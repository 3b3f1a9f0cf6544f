package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// demo is what the steps share.
type demo struct {
	source string // the checkout
	dir    string // everything that the demo writes
	server *postgrestest.Server
	passwords
	terraform string
	exporter  *exec.Cmd
	exited    chan error // the exporter's end
	api       string     // its URL
}

// passwords are made anew for each demo.
type passwords struct{ adminPassword, exporterPassword, realTimePassword string }

const (
	database = "scanner_db"
	admin    = "scanner_admin"
	example  = "examples/job-progress"
)

func (d *demo) build(ctx context.Context) error {
	gomod, err := output(ctx, "", nil, "go", "env", "GOMOD")
	if err != nil {
		return err
	}
	d.source = filepath.Dir(strings.TrimSpace(gomod))
	if d.dir, err = os.MkdirTemp("", "matview-demo-"); err != nil {
		return err
	}
	// Where Terraform looks for the provider: an unpacked filesystem mirror.
	for target, pkg := range map[string]string{d.providerBinary(): ".", d.exporterBinary(): "./exporter"} {
		if _, err := output(ctx, d.source, nil, "go", "build", "-o", target, pkg); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) exporterBinary() string { return filepath.Join(d.dir, "matview-exporter") }

func (d *demo) startDatabase(ctx context.Context) error {
	var err error
	if d.server, err = postgrestest.Start(ctx, postgrestest.Options{Settings: map[string]string{"shared_buffers": "256MB", "max_wal_size": "4GB"}}); err != nil {
		return err
	}
	d.passwords = passwords{rand.Text(), rand.Text(), rand.Text()}
	conn, err := pgx.Connect(ctx, d.server.URL("postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	for _, sql := range []string{
		"CREATE ROLE " + admin + " LOGIN CREATEROLE PASSWORD '" + d.adminPassword + "'",
		"CREATE DATABASE " + database + " OWNER " + admin,
	} {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return err
		}
	}
	if err := d.load(ctx); err != nil {
		return err
	}
	say("PostgreSQL %d.%d at %s:%d, database %s.", d.server.Version()/10000, d.server.Version()%10000, d.server.Host(), d.server.Port(), database)
	return nil
}

// load makes the application's tables and rows, and the logins.
func (d *demo) load(ctx context.Context) error {
	// As the administrator who hands out roles; the tables belong to scanner_admin.
	conn, err := pgx.Connect(ctx, d.server.URL(database))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, "ALTER SCHEMA public OWNER TO "+admin+"; SET ROLE "+admin); err != nil {
		return err
	}
	for _, file := range []string{"schema.sql", "load.sql", "roles.sql"} {
		sql, err := os.ReadFile(filepath.Join(d.source, example, file))
		if err != nil {
			return err
		}
		if file == "roles.sql" {
			if _, err := conn.Exec(ctx, "RESET ROLE"); err != nil {
				return err
			}
		}
		text := strings.NewReplacer(":'exporter_password'", "'"+d.exporterPassword+"'", ":'api_password'", "'"+d.realTimePassword+"'").Replace(string(sql))
		if _, err := conn.Exec(ctx, text); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	var jobs, objects int
	if err := conn.QueryRow(ctx, "SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM job_objects)").Scan(&jobs, &objects); err != nil {
		return err
	}
	return want("jobs and objects", [2]int{jobs, objects}, [2]int{150, 1_250_000})
}

// exec runs SQL as the owner of the application's tables.
func (d *demo) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, d.url(admin, d.adminPassword))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, sql)
	return err
}

func (d *demo) url(user, password string) string {
	return fmt.Sprintf("postgres://%s:%s@%s:%d/%s?sslmode=disable", user, password, d.server.Host(), d.server.Port(), database)
}

// want compares a thing with what it must be.
func want[T comparable](what string, got, wanted T) error {
	if got != wanted {
		return fmt.Errorf("%s: %v, want %v", what, got, wanted)
	}
	return nil
}

// output runs a program to its end. An error holds what it printed.
func output(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

func (d *demo) sayWhere() {
	fmt.Printf(`
Left running; Ctrl-C ends it all.

  API and metrics   %s
  psql              PGPASSWORD=%s psql -h %s -p %d -U %s -d %s
  terraform         cd %s; source ./env
`, d.api, d.adminPassword, d.server.Host(), d.server.Port(), admin, database, d.terraformDir())
}

func (d *demo) cleanUp() error {
	var errs []error
	if d.exporter != nil {
		errs = append(errs, d.stopExporter())
	}
	if d.server != nil {
		errs = append(errs, d.server.Stop())
	}
	if d.dir != "" {
		errs = append(errs, os.RemoveAll(d.dir))
	}
	return errors.Join(errs...)
}
