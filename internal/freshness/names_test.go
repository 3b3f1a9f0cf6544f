package freshness_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/freshness"
)

// A row of another program's, by each of the names that it may have written.
func TestNamesInLog(t *testing.T) {
	long := strings.Repeat("é", 31) // 62 bytes
	cases := map[string]struct {
		create string
		logged string
		want   string // view_name of the row that counts, "" if the logged name is nobody's
	}{
		"public":                     {`job_progress`, "job_progress", "job_progress"},
		"public, qualified":          {`job_progress`, "public.job_progress", "job_progress"},
		"elsewhere":                  {`app.daily`, "app.daily", "app.daily"},
		"elsewhere, bare and unique": {`app.daily`, "daily", "app.daily"},
		"ambiguous":                  {`app.daily,other.daily`, "daily", ""},
		"bare means public":          {`daily,app.daily`, "daily", "daily"},
		"capitals quoted":            {`"Daily"`, `"Daily"`, `"Daily"`},
		"capitals as they are":       {`"Daily"`, `Daily`, `"Daily"`},
		"capitals are told apart":    {`"Daily",daily`, `daily`, `daily`},
		"dots quoted":                {`"v1.0"`, `"v1.0"`, `"v1.0"`},
		"dots as they are":           {`"v1.0"`, `v1.0`, `"v1.0"`},
		"dot or schema":              {`"app.daily",app.daily`, `app.daily`, `app.daily`},
		"quotes":                     {`"say ""hi"""`, `"say ""hi"""`, `"say ""hi"""`},
		"quotes as they are":         {`"say ""hi"""`, `say "hi"`, `"say ""hi"""`},
		"odd schema":                 {`"My.Schema"."My View"`, `"My.Schema"."My View"`, `"My.Schema"."My View"`},
		"odd schema as it is":        {`"My.Schema"."My View"`, `My.Schema.My View`, `"My.Schema"."My View"`},
		"reserved word":              {`"select"`, `select`, `"select"`},
		"long and not ASCII":         {`"` + long + `"`, long, `"` + long + `"`},
		"nobody's":                   {`daily`, "weekly", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			db := installed(t)
			pool := db.Pool(t)
			db.Exec(t, `CREATE SCHEMA app; CREATE SCHEMA other; CREATE SCHEMA "My.Schema"`)
			for view := range strings.SplitSeq(c.create, ",") {
				db.Exec(t, "CREATE MATERIALIZED VIEW "+view+" AS SELECT 1 AS x")
			}
			db.Exec(t, "INSERT INTO materialized_view_refresh_log VALUES ($1, now(), 5)", c.logged)
			db.Exec(t, "INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ($1, '1 hour')", c.logged)
			rows, err := freshness.All(t.Context(), pool, "public")
			if err != nil {
				t.Fatal(err)
			}
			var asked []freshness.View
			for _, row := range rows {
				if row.Asked() {
					asked = append(asked, row)
				}
			}
			if len(asked) != 1 || asked[0].LastRefreshedAt == nil || !asked[0].IsScheduled {
				t.Fatalf("the log and the schedule are not about one view: %+v", asked)
			}
			if c.want == "" {
				if asked[0].Name != c.logged || text(asked[0].StaleReason) != "missing" {
					t.Errorf("%+v", asked[0])
				}
				return
			}
			if asked[0].Name != c.want || asked[0].StaleReason != nil {
				t.Errorf("view_name is %s with reason %s, want %s", asked[0].Name, text(asked[0].StaleReason), c.want)
			}
			if view := find(t, pool, c.logged); view.Name != c.want {
				t.Errorf("found by %s: %s", c.logged, view.Name)
			}
			if view := find(t, pool, c.want); view.Name != c.want {
				t.Errorf("found by %s: %s", c.want, view.Name)
			}
		})
	}
}

func TestFindUnknown(t *testing.T) {
	db := installed(t)
	if _, found, err := freshness.Find(t.Context(), db.Pool(t), "public", "nope"); found || err != nil {
		t.Errorf("found %v, error %v", found, err)
	}
}

// What a pooler without prepared statements asks for.
func TestReadBySimpleProtocol(t *testing.T) {
	db := installed(t)
	config, err := pgx.ParseConfig(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	db.Exec(t, foreignRow+everyHour)
	if _, found, err := freshness.Find(t.Context(), conn, "public", "v"); !found || err != nil {
		t.Errorf("found %v, error %v", found, err)
	}
}
