package refresh

import (
	"context"
	"errors"

	"github.com/jackc/pgerrcode"

	"github.com/matview/terraform-provider-matview/internal/matview"
	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// statedError is a failure that we detected before the server did, with the
// SQLSTATE that it would have given.
type statedError struct {
	error
	state string
}

func (e *statedError) Unwrap() error { return e.error }

// sqlState is the SQLSTATE of any failure, for the history; "" if none fits.
func sqlState(err error) string {
	var stated *statedError
	var obstacles *matview.ObstaclesError
	var changed *matview.ChangedError
	switch state := postgres.SQLState(err); {
	case state != "":
		return state
	case errors.As(err, &stated):
		return stated.state
	case errors.As(err, &obstacles):
		return pgerrcode.ObjectNotInPrerequisiteState
	case errors.As(err, &changed):
		return pgerrcode.SerializationFailure
	case errors.Is(err, errBackendGone):
		return pgerrcode.ConnectionFailure
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return pgerrcode.QueryCanceled
	}
	return ""
}

// canceled is the cause of a cancellation, with query_canceled for its SQLSTATE
// unless it has one.
func canceled(cause error) error {
	if sqlState(cause) != "" {
		return cause
	}
	return &statedError{cause, pgerrcode.QueryCanceled}
}
