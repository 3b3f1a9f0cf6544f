package schedule

import "testing"

func TestCheckSettingName(t *testing.T) {
	for name, ok := range map[string]bool{
		"work_mem": true, "search_path": true, "TimeZone": true, "lock_timeout": true, "app.tenant": true,
		"role": false, "Session_Authorization": false, "client_encoding": false, "idle_in_transaction_session_timeout": false, "matview.own": false,
	} {
		if err := CheckSettingName(name); (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSafePath(t *testing.T) {
	for path, want := range map[string]string{
		"": "", `app, "$user"`: `app, "$user"`, "app, pg_catalog": "pg_catalog, app, pg_catalog", `app, "pg_catalog"`: `pg_catalog, app, "pg_catalog"`,
	} {
		if got := SafePath(path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
