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

// demo is the state that the steps share.
type demo struct {
	source string // the checkout
	dir    string // everything that the demo writes
	server *postgrestest.Server
	passwords
	terraform string
	exporter  *exec.Cmd
	exited    chan error // receives the exporter's exit
	api       string     // its URL
}

// passwords are random.
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
	// Terraform finds the provider in an unpacked filesystem mirror.
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
	settings := map[string]string{"shared_buffers": "256MB", "max_wal_size": "4GB"}
	if d.server, err = postgrestest.Start(ctx, postgrestest.Options{Settings: settings}); err != nil {
		return err
	}
	d.passwords = passwords{rand.Text(), rand.Text(), rand.Text()}
	err = query(ctx, d.server.URL("postgres"), func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "CREATE ROLE "+admin+" LOGIN CREATEROLE PASSWORD '"+d.adminPassword+"'")
		if err == nil {
			_, err = conn.Exec(ctx, "CREATE DATABASE "+database+" OWNER "+admin)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := query(ctx, d.server.URL(database), func(conn *pgx.Conn) error { return d.load(ctx, conn) }); err != nil {
		return err
	}
	say("PostgreSQL %d.%d at %s:%d, database %s.", d.server.Version()/10000, d.server.Version()%10000, d.server.Host(), d.server.Port(), database)
	return nil
}

// load creates the application's tables as their owner, and the logins as superuser.
func (d *demo) load(ctx context.Context, conn *pgx.Conn) error {
	passwords := strings.NewReplacer(":'exporter_password'", "'"+d.exporterPassword+"'", ":'api_password'", "'"+d.realTimePassword+"'")
	for _, step := range []struct{ before, file string }{
		{"ALTER SCHEMA public OWNER TO " + admin + "; SET ROLE " + admin, "schema.sql"},
		{"", "load.sql"},
		{"RESET ROLE", "roles.sql"},
	} {
		sql, err := os.ReadFile(filepath.Join(d.source, example, step.file))
		if err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, step.before+";"+passwords.Replace(string(sql))); err != nil {
			return fmt.Errorf("%s: %w", step.file, err)
		}
	}
	var jobs, objects int
	if err := conn.QueryRow(ctx, "SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM job_objects)").Scan(&jobs, &objects); err != nil {
		return err
	}
	return want("jobs and objects", [2]int{jobs, objects}, [2]int{150, 1_250_000})
}

// query runs do with a connection.
func query(ctx context.Context, url string, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	return do(conn)
}

func (d *demo) url(user, password string) string {
	return fmt.Sprintf("postgres://%s:%s@%s:%d/%s?sslmode=disable", user, password, d.server.Host(), d.server.Port(), database)
}

// want returns an error unless got is the wanted value.
func want[T comparable](what string, got, wanted T) error {
	if got != wanted {
		return fmt.Errorf("%s: %v, want %v", what, got, wanted)
	}
	return nil
}

// output runs a program and returns its output, which an error contains, too.
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
