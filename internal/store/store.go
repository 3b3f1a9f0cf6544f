// Package store owns the tables of matview: every statement on the log, the
// schedule, the state, the history, the settings and the publication is here, with
// typed rows and named arguments. The read model has a package of its own,
// freshness; how the tables are installed is in migrations.
//
// A file holds what concerns one table or one step: names.go, schedule.go,
// history.go, and so on. Statements name relations and functions as {history} or
// {name}, see [Store.SQL].
package store

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// DB is what writing needs: a connection, a pool or a transaction.
type DB interface {
	postgres.Querier
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Names of our relations. The log is a public contract, see migrations.
const (
	LogTable         = "materialized_view_refresh_log"
	ScheduleTable    = "materialized_view_refresh_schedule"
	StateTable       = "materialized_view_refresh_state"
	HistoryTable     = "materialized_view_refresh_history"
	SettingsTable    = "materialized_view_refresh_settings"
	PublicationTable = "materialized_view_refresh_publication"
	UnpublishedTable = "materialized_view_refresh_unpublished"
	NamesView        = "materialized_view_names"
	FreshnessView    = "materialized_view_freshness"
)

// Functions of ours, by their names.
const (
	nameFunction           = "materialized_view_name"
	upstreamsFunction      = "materialized_view_upstreams"
	attemptTimeoutFunction = "materialized_view_attempt_timeout"
	logRowsFunction        = "materialized_view_refresh_log_rows"
	testedServerFunction   = "materialized_view_server_is_tested"
)

// Store is the tables in one schema.
type Store struct {
	schema string
	names  *strings.Replacer
}

// New is the store of the tables in schema. It does not look whether they are there.
func New(schema string) *Store {
	var pairs []string
	for placeholder, name := range map[string]string{
		"{log}":             LogTable,
		"{schedule}":        ScheduleTable,
		"{state}":           StateTable,
		"{history}":         HistoryTable,
		"{settings}":        SettingsTable,
		"{publication}":     PublicationTable,
		"{unpublished}":     UnpublishedTable,
		"{names}":           NamesView,
		"{freshness}":       FreshnessView,
		"{name}":            nameFunction,
		"{upstreams}":       upstreamsFunction,
		"{attempt_timeout}": attemptTimeoutFunction,
		"{log_rows}":        logRowsFunction,
		"{tested_server}":   testedServerFunction,
	} {
		pairs = append(pairs, placeholder, pgx.Identifier{schema, name}.Sanitize())
	}
	return &Store{schema: schema, names: strings.NewReplacer(pairs...)}
}

// Schema is where the tables are, unquoted.
func (s *Store) Schema() string { return s.schema }

// SQL is text with each placeholder replaced by the quoted, qualified name of what
// it stands for:
//
//	{log} {schedule} {state} {history} {settings}                tables
//	{publication} {unpublished}                                  tables
//	{names} {freshness}                                          views
//	{name}(schema, relation)                                     canonical name of a view
//	{upstreams}(oid)                                             materialized views that a view reads
//	{attempt_timeout}()                                          when a silent attempt counts as dead
//	{log_rows}()                                                 the log, also where it has been dropped
//	{tested_server}()                                            whether the server is of a major that we know
func (s *Store) SQL(text string) string { return s.names.Replace(text) }
