package api

import (
	"net/url"
	"regexp"
	"strconv"
	"time"
)

// rowParameters are what a client may ask of a row route. Other parameters are
// not ours.
type rowParameters struct {
	live   bool
	maxAge *time.Duration // nil: any age will do
}

func readRowParameters(u *url.URL) (rowParameters, error) {
	var p rowParameters
	if u.RawQuery == "" {
		return p, nil
	}
	query, err := readQuery(u)
	if err != nil {
		return p, err
	}
	if given, found := query["real_time"]; found {
		if len(given) != 1 || given[0] != "true" && given[0] != "false" {
			return p, invalidParameter("real_time must be true or false, once.")
		}
		p.live = given[0] == "true"
	}
	if given, found := query["max_age"]; found {
		if len(given) != 1 {
			return p, invalidParameter(maxAgeSyntax)
		}
		age, ok := parseAge(given[0])
		if !ok {
			return p, invalidParameter(maxAgeSyntax)
		}
		p.maxAge = &age
	}
	return p, nil
}

func readQuery(u *url.URL) (url.Values, error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, invalidParameter("The query string does not parse.")
	}
	return query, nil
}

const maxAgeSyntax = "max_age must be a duration such as 90s or 5m, or a number of seconds, once, and not negative."

// seconds are digits with or without a fraction: no sign, exponent or infinity.
var seconds = regexp.MustCompile(`^[0-9]{1,10}(\.[0-9]{1,9})?$`)

// parseAge reads a Go duration, or seconds as HTTP has them.
func parseAge(text string) (time.Duration, bool) {
	if seconds.MatchString(text) {
		text += "s"
	}
	age, err := time.ParseDuration(text)
	return age, err == nil && age >= 0
}

// maxHistory bounds ?history=, for each view.
const maxHistory = 100

// readHistory is how many attempts to show of each view; -1 if that is not asked.
func readHistory(u *url.URL) (int, error) {
	query, err := readQuery(u)
	if err != nil {
		return 0, err
	}
	given, found := query["history"]
	if !found {
		return -1, nil
	}
	if len(given) == 1 {
		// ParseUint takes no sign.
		if n, err := strconv.ParseUint(given[0], 10, 16); err == nil && n >= 1 && n <= maxHistory {
			return int(n), nil
		}
	}
	return 0, invalidParameter("history must be a number of attempts from 1 to " + strconv.Itoa(maxHistory) + ", once.")
}
