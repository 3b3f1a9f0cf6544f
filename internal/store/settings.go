package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// SetHistoryRetention sets how long attempts are kept in the history, to the
// microsecond.
func (s *Store) SetHistoryRetention(ctx context.Context, db DB, retention time.Duration) error {
	_, err := db.Exec(ctx, s.SQL(`
INSERT INTO {settings} (history_retention) VALUES (@micros::bigint * interval '1 microsecond')
ON CONFLICT (only_row) DO UPDATE SET history_retention = EXCLUDED.history_retention`), pgx.NamedArgs{"micros": retention.Microseconds()})
	if err != nil {
		return fmt.Errorf("set the retention of the refresh history in schema %q: %w", s.schema, err)
	}
	return nil
}

// HistoryRetention is how long attempts are kept in the history; 0 if somebody has
// deleted the settings. The tables have to be there.
func (s *Store) HistoryRetention(ctx context.Context, db postgres.Querier) (time.Duration, error) {
	var micros int64
	err := db.QueryRow(ctx, s.SQL(`SELECT coalesce((SELECT (extract(epoch FROM history_retention) * 1000000)::bigint FROM {settings}), 0)`)).Scan(&micros)
	if err != nil {
		return 0, fmt.Errorf("read the retention of the refresh history in schema %q: %w", s.schema, err)
	}
	return time.Duration(micros) * time.Microsecond, nil
}
