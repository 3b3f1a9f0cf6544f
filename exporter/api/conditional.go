package api

import (
	"net/http"
	"strings"
)

// ifNoneMatch is the If-None-Match of a request, "" if there is none. It is a
// list, over one header or several.
func ifNoneMatch(r *http.Request) string {
	return strings.TrimSpace(strings.Join(r.Header.Values("If-None-Match"), ","))
}

// matches reports whether a list of entity tags has this one, by the weak
// comparison of RFC 9110, section 8.8.3.2. What follows a syntax error matches
// nothing.
func matches(list, tag string) bool {
	for {
		list = strings.TrimLeft(list, " \t,")
		list = strings.TrimPrefix(list, "W/")
		if !strings.HasPrefix(list, `"`) {
			return false
		}
		end := strings.IndexByte(list[1:], '"')
		if end < 0 {
			return false
		}
		if list[:end+2] == tag {
			return true
		}
		list = strings.TrimLeft(list[end+2:], " \t")
		if list != "" && list[0] != ',' {
			return false
		}
	}
}
