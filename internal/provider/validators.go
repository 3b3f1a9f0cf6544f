package provider

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
)

// check validates a string attribute by a function. The error has the attribute's
// path, and so the line in the configuration.
type check struct {
	summary     string
	description string
	err         func(value string) error
}

var _ validator.String = check{}

func (c check) Description(context.Context) string         { return c.description }
func (c check) MarkdownDescription(context.Context) string { return c.description }

func (c check) ValidateString(_ context.Context, req validator.StringRequest, resp *validator.StringResponse) {
	if req.ConfigValue.IsNull() || req.ConfigValue.IsUnknown() {
		return
	}
	if err := c.err(req.ConfigValue.ValueString()); err != nil {
		resp.Diagnostics.AddAttributeError(req.Path, c.summary, err.Error())
	}
}

// maxIdentifier is NAMEDATALEN - 1, in bytes: PostgreSQL cuts a longer name without
// an error.
const maxIdentifier = 63

// identifier accepts what can be the name of a relation, an index, a column or a
// role, without quotes.
func identifier() validator.String {
	return check{"Invalid name", "a name of 1 to 63 bytes, without quotes around it", checkIdentifier}
}

func schemaName() validator.String {
	return check{"Invalid schema name", "a schema's name of 1 to 63 bytes, without quotes around it", checkIdentifier}
}

func checkIdentifier(name string) error {
	switch {
	case name == "":
		return errors.New("a name cannot be empty")
	case len(name) > maxIdentifier:
		return fmt.Errorf("%q is longer than the %d bytes that PostgreSQL keeps", name, maxIdentifier)
	case strings.ContainsRune(name, 0):
		return fmt.Errorf("%q holds a NUL character", name)
	}
	return nil
}

// parameterName accepts the name of a storage parameter as the server stores it.
func parameterName() validator.String {
	return stringvalidator.RegexMatches(regexp.MustCompile(`^(toast\.)?[a-z_][a-z0-9_]*$`), "must be the name of a storage parameter in lower case, such as fillfactor or toast.autovacuum_enabled")
}

// text accepts non-empty text that PostgreSQL can store.
func text() validator.String {
	return check{
		summary:     "Invalid text",
		description: "not empty, and without NUL characters",
		err: func(value string) error {
			switch {
			case value == "":
				return errors.New("it cannot be empty; leave the argument out instead")
			case strings.ContainsRune(value, 0):
				return errors.New("it holds a NUL character, which no text in PostgreSQL can")
			}
			return nil
		},
	}
}

// maxInterval is the limit of our tables, without leap days.
const maxInterval = 199 * 365 * 24 * time.Hour

// positiveDuration accepts durations that PostgreSQL, whose intervals count
// microseconds, can store exactly.
func positiveDuration() validator.String {
	return durationBetween(time.Microsecond, maxInterval, time.Microsecond)
}

// timeoutDuration accepts the values of a PostgreSQL setting in milliseconds, except
// 0, which means no limit there.
func timeoutDuration() validator.String {
	return durationBetween(time.Millisecond, math.MaxInt32*time.Millisecond, time.Millisecond)
}

func durationBetween(least, most, unit time.Duration) validator.String {
	return check{
		summary:     "Invalid duration",
		description: fmt.Sprintf("a duration from %s to %s, such as 30s, 5m or 1h30m", least, most),
		err: func(value string) error {
			d, err := time.ParseDuration(value)
			switch {
			case err != nil:
				return nil //nolint:nilerr // the attribute's type reports it
			case d < least:
				return fmt.Errorf("%q must be at least %s", value, least)
			case d > most:
				return fmt.Errorf("%q must be at most %s", value, most)
			case d%unit != 0:
				return fmt.Errorf("%q must be a whole number of %s", value, map[time.Duration]string{time.Microsecond: "microseconds", time.Millisecond: "milliseconds"}[unit])
			}
			return nil
		},
	}
}
