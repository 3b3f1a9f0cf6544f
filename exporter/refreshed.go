package main

import (
	"encoding/json"
	"time"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/refresh"
)

// refreshed is a line of --output=json.
type refreshed struct {
	View       string     `json:"view_name"`
	Outcome    string     `json:"outcome"` // succeeded, skipped, failed, or taken by another exporter
	Method     *string    `json:"method"`
	Reason     *string    `json:"reason"`
	DataAsOf   *time.Time `json:"data_as_of"`
	FinishedAt *time.Time `json:"finished_at"`
	LockWaitMS *int64     `json:"lock_wait_ms"`
	DurationMS *int64     `json:"duration_ms"`
	TotalJobs  *int64     `json:"total_jobs"`
	Objects    *int64     `json:"total_objects"`
	Warning    *string    `json:"warning"`
	Error      *string    `json:"error"`
	SQLState   *string    `json:"sqlstate"`
}

func newRefreshed(view string, result refresh.Result, claimed bool, err error) refreshed {
	switch {
	case err != nil:
		return refreshed{View: view, Outcome: "failed", Error: orNil(postgres.Message(err)), SQLState: orNil(postgres.SQLState(err))}
	case !claimed:
		return refreshed{View: view, Outcome: "taken"}
	}
	wait, duration, finished := result.LockWait.Milliseconds(), result.DurationMS(), result.FinishedAt.UTC()
	line := refreshed{
		View: result.View, Outcome: "succeeded", Method: orNil(string(result.Method)), Reason: orNil(result.Reason),
		FinishedAt: &finished, LockWaitMS: &wait, DurationMS: &duration,
		TotalJobs: result.TotalJobs, Objects: result.TotalObjects, Warning: orNil(result.Warning),
	}
	if result.Skipped {
		line.Outcome, line.Method = "skipped", nil
	}
	if result.AsOf != nil {
		asOf := result.AsOf.UTC()
		line.DataAsOf = &asOf
	}
	return line
}

func (r refreshed) line() string {
	text, err := json.Marshal(r)
	if err != nil { // plain fields
		return err.Error()
	}
	return string(text)
}
