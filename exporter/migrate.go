package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/alecthomas/kingpin/v2"

	"github.com/matview/terraform-provider-matview/migrations"
)

func (a *app) addMigrate(cli *kingpin.Application, commands map[string]command) {
	c := cli.Command("migrate", "Install, upgrade or repair the tables of matview. What exists stays, with its rows.")
	var track optionalBool
	c.Flag("track-external-refreshes", "Record refreshes by others, with an event trigger; --no-… ends that. It takes a superuser, or a member of rds_superuser on Amazon RDS. Without this flag it stays as it is, and what was damaged is repaired.").
		SetValue(&track)
	commands[c.FullCommand()] = func(ctx context.Context) int { return a.migrate(ctx, track) }
}

// optionalBool is a switch that can be left as it is.
type optionalBool struct{ set, on bool }

// IsBoolFlag makes kingpin offer --flag and --no-flag.
func (b *optionalBool) IsBoolFlag() bool { return true }

func (b *optionalBool) Set(text string) (err error) {
	b.set = true
	b.on, err = strconv.ParseBool(text)
	return err
}

func (b *optionalBool) String() string { return "" } // no default

func (a *app) migrate(ctx context.Context, track optionalBool) int {
	pool, err := a.open(ctx, 1)
	if err != nil {
		return a.fail(exitFailed, err)
	}
	defer pool.Close()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return a.fail(exitFailed, err)
	}
	defer conn.Release()
	if track.set {
		err = migrations.Track(ctx, conn.Conn(), a.schema, track.on)
	} else {
		err = migrations.Apply(ctx, conn.Conn(), a.schema)
	}
	if err != nil {
		return a.fail(exitFailed, err)
	}
	tracks, err := migrations.Tracking(ctx, conn, a.schema)
	if err != nil {
		return a.fail(exitFailed, err)
	}
	fmt.Fprintf(a.stdout, "The tables of matview in schema %s are complete, at version %d.\n", a.schema, migrations.Version())
	if tracks {
		fmt.Fprintln(a.stdout, "Refreshes by others are recorded.")
	}
	return exitOK
}
