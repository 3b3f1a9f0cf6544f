package main

import (
	"context"
	"fmt"

	"github.com/alecthomas/kingpin/v2"

	"github.com/matview/terraform-provider-matview/migrations"
)

func (a *app) addMigrate(cli *kingpin.Application, commands map[string]command) {
	c := cli.Command("migrate", "Install, upgrade or repair the tables of matview. What exists stays, with its rows.")
	commands[c.FullCommand()] = a.migrate
}

func (a *app) migrate(ctx context.Context) int {
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
	if err := migrations.Apply(ctx, conn.Conn(), a.schema); err != nil {
		return a.fail(exitFailed, err)
	}
	fmt.Fprintf(a.stdout, "The tables of matview in schema %s are complete, at version %d.\n", a.schema, migrations.Version())
	return exitOK
}
