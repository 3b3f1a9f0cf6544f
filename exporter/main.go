// matview-exporter refreshes materialized views on schedule, records how fresh
// each one is, and publishes it.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kingpin/v2"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/common/promslog"
	promslogflag "github.com/prometheus/common/promslog/flag"
	"github.com/prometheus/common/version"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// Exit codes. check gives [exitStale] and [exitUnknown] a meaning of their own.
const (
	exitOK      = 0
	exitFailed  = 1
	exitStale   = 1
	exitUnknown = 2
	exitUsage   = 2
)

func main() {
	// A second signal ends the process at once: only the first is listened for.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// app is what every command shares.
type app struct {
	stdout, stderr io.Writer
	database       database
	schema         string
	logConfig      promslog.Config
	logger         *slog.Logger
}

// command runs one subcommand and returns the exit code.
type command func(ctx context.Context) int

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := &app{stdout: stdout, stderr: stderr, logConfig: promslog.Config{Writer: stderr}}
	cli := kingpin.New("matview-exporter", "Refreshes PostgreSQL materialized views on schedule and publishes how fresh each one is. "+
		"Connects as --database.url says, or as PGHOST and the other PG* variables do. Every flag can be set by a variable: MATVIEW_ and the flag in capitals, with _ for . and -.")
	cli.Version(version.Print("matview-exporter")).HelpFlag.Short('h')
	cli.UsageWriter(stdout).ErrorWriter(stderr)
	exit := -1
	cli.Terminate(func(code int) { // --help and --version, after which kingpin would miss the command and show all of the help
		exit = code
		cli.UsageWriter(io.Discard)
	})
	a.database.addFlags(cli)
	cli.Flag("database.schema", "Schema of the tables of matview.").Default("public").StringVar(&a.schema)
	promslogflag.AddFlags(cli, &a.logConfig)
	commands := map[string]command{}
	a.addRun(cli, commands)
	a.addRefresh(cli, commands)
	a.addStatus(cli, commands)
	a.addCheck(cli, commands)
	a.addMigrate(cli, commands)
	a.addLambda(cli, commands)
	setVariables(cli)

	selected, err := cli.Parse(args)
	if exit >= 0 {
		return exit
	}
	if err != nil {
		fmt.Fprintf(stderr, "matview-exporter: %v; try matview-exporter --help\n", err)
		return exitUsage
	}
	a.logger = promslog.New(&a.logConfig)
	return commands[selected](ctx)
}

// setVariables gives every flag its variable: --web.listen-address is
// MATVIEW_WEB_LISTEN_ADDRESS.
func setVariables(cli *kingpin.Application) {
	variable := func(flag string) string {
		return "MATVIEW_" + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(flag))
	}
	builtin := func(name string) bool {
		return name == "help" || name == "version" || strings.HasPrefix(name, "help-") || strings.HasPrefix(name, "completion-")
	}
	for _, f := range cli.Model().Flags {
		if !builtin(f.Name) {
			cli.GetFlag(f.Name).Envar(variable(f.Name))
		}
	}
	for _, c := range cli.Model().Commands {
		for _, f := range c.Flags {
			if !builtin(f.Name) {
				cli.GetCommand(c.Name).GetFlag(f.Name).Envar(variable(f.Name))
			}
		}
	}
}

// open makes the pool without connecting. maxConnections 0 leaves it to the URL.
func (a *app) open(ctx context.Context, maxConnections int) (*pgxpool.Pool, error) {
	return postgres.Open(ctx, a.database.config(maxConnections))
}

// fail prints what went wrong and returns code.
func (a *app) fail(code int, err error) int {
	fmt.Fprintf(a.stderr, "matview-exporter: %s\n", postgres.Message(err))
	return code
}

// attemptedBy names this process in the history.
func attemptedBy() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("matview-exporter on %s, pid %d", host, os.Getpid())
}
