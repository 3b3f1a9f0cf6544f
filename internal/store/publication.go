package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// EndedAttempt is an attempt that a destination has not confirmed yet.
type EndedAttempt struct {
	ID         int64         `db:"id"`
	View       string        `db:"view_name"`
	Outcome    string        `db:"outcome"` // as the history names it
	FinishedAt time.Time     `db:"finished_at"`
	Duration   time.Duration `db:"duration"` // 0 if unknown
	// StalenessBefore is the age of the data, in seconds, just before the attempt
	// replaced it. It is nil if the attempt did not succeed or the age is unknown.
	StalenessBefore *float64 `db:"staleness_before"`
}

// PublicationClaim is the right to publish to a destination.
type PublicationClaim struct {
	Attempts []EndedAttempt
	// Until is when another process may claim the same, by the clock of this one.
	Until time.Time

	destination string
	by          string             // identifies the claim
	minute      pgtype.Timestamptz // that is published once the claim is confirmed; may be -infinity
}

// Publication shares publishing among replicas, by the clock of the database.
// Attempts wait there until their publication is confirmed, so a process that dies
// loses none; one that dies before it confirms has them published twice.
type Publication struct {
	store *Store
	pool  *pgxpool.Pool
}

// Publication is the publication tables, reached through pool.
func (s *Store) Publication(pool *pgxpool.Pool) *Publication { return &Publication{s, pool} }

// registerSQL leaves out attempts that have ended by now: a new destination begins
// with the next one.
const registerSQL = `
INSERT INTO {publication} (destination)
SELECT @destination WHERE NOT EXISTS (SELECT FROM {publication} WHERE destination = @destination)
ON CONFLICT DO NOTHING`

// forgetSQL drops destinations that nobody has claimed for as long as CloudWatch
// accepts data, which would otherwise collect attempts for ever.
const forgetSQL = `
WITH forgotten AS (
    DELETE FROM {publication}
    WHERE claimed_until < clock_timestamp() - interval '14 days' AND destination <> @destination
    RETURNING destination
)
DELETE FROM {unpublished} AS u USING forgotten AS f WHERE u.destination = f.destination`

// unpublishedMinute is the condition that the current minute is not published. One in the
// future was, before the clock was set back.
const unpublishedMinute = `(minute < date_trunc('minute', clock_timestamp()) OR minute > clock_timestamp())`

const claimPublicationSQL = `
UPDATE {publication} SET claimed_by = @by, claimed_until = clock_timestamp() + @lease::interval
WHERE destination = @destination AND (claimed_until <= clock_timestamp() OR claimed_until > clock_timestamp() + @lease::interval)
  AND (@attempts_only OR ` + unpublishedMinute + `)
RETURNING CASE WHEN @attempts_only THEN minute ELSE date_trunc('minute', clock_timestamp()) END`

const claimedForSQL = `
SELECT claimed_until - clock_timestamp() FROM {publication}
WHERE destination = @destination AND ` + unpublishedMinute

// The index on view and start finds the attempt before, which knows how old the
// data had become.
const unpublishedSQL = `
SELECT h.id, h.view_name, h.outcome, coalesce(h.finished_at, clock_timestamp()) AS finished_at,
       coalesce(h.duration_ms, 0) * interval '1 millisecond' AS duration,
       CASE WHEN h.outcome = 'succeeded' THEN extract(epoch FROM h.finished_at - (
           SELECT p.data_as_of FROM {history} AS p
           WHERE p.view_name = h.view_name AND p.started_at < h.started_at AND p.outcome IN ('succeeded', 'skipped')
           ORDER BY p.started_at DESC LIMIT 1))::double precision END AS staleness_before
FROM {unpublished} AS u JOIN {history} AS h ON h.id = u.attempt_id
WHERE u.destination = @destination
ORDER BY u.attempt_id
LIMIT @limit`

const confirmPublicationSQL = `
WITH confirmed AS (
    UPDATE {publication} SET minute = CASE WHEN minute > clock_timestamp() THEN @minute ELSE greatest(minute, @minute) END, claimed_until = clock_timestamp()
    WHERE destination = @destination AND claimed_by = @by
    RETURNING destination
), published AS (
    DELETE FROM {unpublished} AS u USING confirmed AS c WHERE u.destination = c.destination AND u.attempt_id = ANY (@attempts)
)
SELECT destination FROM confirmed`

const (
	// lease is how long others respect a claim: long enough for a call with all its
	// retries.
	lease = 40 * time.Second
	// maxClaimedAttempts bounds what one claim reads; the next claim reads on.
	maxClaimedAttempts = 10_000
)

// Register has attempts that end from now on wait for a destination. It does
// nothing if the destination is registered already.
func (p *Publication) Register(ctx context.Context, destination string) error {
	return p.register(ctx, p.pool, destination)
}

func (p *Publication) register(ctx context.Context, db DB, destination string) error {
	if _, err := db.Exec(ctx, p.store.SQL(registerSQL), pgx.NamedArgs{"destination": destination}); err != nil {
		return fmt.Errorf("register the destination %q: %w", destination, err)
	}
	return nil
}

// Claim claims the current minute of a destination and the attempts that wait for
// it, or, with attemptsOnly, leaves the minute to others. The claim is nil if
// another process has published or claimed the minute: retryIn is then 0, or when
// to look whether that process has confirmed it.
func (p *Publication) Claim(ctx context.Context, destination string, attemptsOnly bool) (claim *PublicationClaim, retryIn time.Duration, err error) {
	mine := &PublicationClaim{Until: time.Now().Add(lease), destination: destination, by: rand.Text()}
	args := pgx.NamedArgs{
		"destination": destination, "by": mine.by, "lease": lease, "attempts_only": attemptsOnly, "limit": maxClaimedAttempts,
	}
	// Stated, as the defaults of role or database may differ: whoever has waited for
	// the row must see what the other one did.
	options := pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}
	err = pgx.BeginTxFunc(ctx, p.pool, options, func(tx pgx.Tx) error {
		if err := p.register(ctx, tx, destination); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, p.store.SQL(claimPublicationSQL), args).Scan(&mine.minute)
		if errors.Is(err, pgx.ErrNoRows) {
			retryIn, err = p.claimedFor(ctx, tx, args)
			return err
		}
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, p.store.SQL(forgetSQL), args); err != nil {
			return err
		}
		claim = mine
		rows, err := tx.Query(ctx, p.store.SQL(unpublishedSQL), args)
		if err == nil {
			claim.Attempts, err = pgx.CollectRows(rows, pgx.RowToStructByName[EndedAttempt])
		}
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("claim the destination %q: %w", destination, err)
	}
	return claim, retryIn, nil
}

// claimedFor is how long the claim of another process lasts; 0 if the minute is
// published.
func (p *Publication) claimedFor(ctx context.Context, tx pgx.Tx, args pgx.NamedArgs) (time.Duration, error) {
	var left time.Duration
	err := tx.QueryRow(ctx, p.store.SQL(claimedForSQL), args).Scan(&left)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	return max(left, time.Millisecond), err
}

// Confirm records that what was claimed is published, and ends the claim. It is an
// error if the claim expired and another process has claimed the destination since.
func (p *Publication) Confirm(ctx context.Context, claim *PublicationClaim) error {
	attempts := make([]int64, len(claim.Attempts))
	for i, a := range claim.Attempts {
		attempts[i] = a.ID
	}
	tag, err := p.pool.Exec(ctx, p.store.SQL(confirmPublicationSQL), pgx.NamedArgs{
		"destination": claim.destination, "by": claim.by, "minute": claim.minute, "attempts": attempts,
	})
	if err == nil && tag.RowsAffected() == 0 {
		err = errors.New("the claim expired, and another exporter has claimed it since")
	}
	if err != nil {
		return fmt.Errorf("confirm what was published to %q: %w", claim.destination, err)
	}
	return nil
}
