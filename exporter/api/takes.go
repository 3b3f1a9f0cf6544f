package api

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// takes reports whether every value is surely one of its column's type. What is
// not may still be: PostgreSQL, which has the last word, is then asked about it
// in a statement of its own, since a value that it refuses fails its statement
// for all who share that.
func (rel *relation) takes(values []string) bool {
	for i, k := range rel.keys {
		surely, known := certain[k.typ]
		if !known || !surely(values[i]) {
			return false
		}
	}
	return true
}

// certain tells, by format_type's names, what each version of PostgreSQL takes
// under the settings of settingsSQL. It may be too strict, never too lax.
var certain = map[string]func(string) bool{
	"text":                        func(string) bool { return true },
	"character varying":           func(string) bool { return true },
	"bpchar":                      func(string) bool { return true },
	"smallint":                    func(s string) bool { return isInteger(s, 16) },
	"integer":                     func(s string) bool { return isInteger(s, 32) },
	"bigint":                      func(s string) bool { return isInteger(s, 64) },
	"numeric":                     regexp.MustCompile(`^-?[0-9]{1,100}(\.[0-9]{1,100})?$`).MatchString,
	"boolean":                     func(s string) bool { return s == "true" || s == "false" },
	"uuid":                        regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`).MatchString,
	"date":                        isTime(time.DateOnly),
	"timestamp without time zone": isTime(time.DateTime, "2006-01-02T15:04:05"),
	"timestamp with time zone":    isTime("2006-01-02T15:04:05Z"), // Go takes offsets that PostgreSQL does not
}

func isInteger(s string, bits int) bool {
	_, err := strconv.ParseInt(s, 10, bits)
	return err == nil
}

// isTime takes fractions of a second too, as [time.Parse] does.
func isTime(layouts ...string) func(string) bool {
	return func(s string) bool {
		if len(s) > 30 || strings.Contains(s, ",") {
			return false // Go takes a comma before the fraction
		}
		for _, layout := range layouts {
			// There is no year 0.
			if t, err := time.Parse(layout, s); err == nil && t.Year() > 0 {
				return true
			}
		}
		return false
	}
}
