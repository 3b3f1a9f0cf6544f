package matview

import "testing"

func TestSameText(t *testing.T) {
	for _, c := range []struct{ a, b string }{
		{"SELECT id, Name FROM jobs", "select\n\tid,name /* of /* it */ */ FROM JOBS -- end\n;; "},
		{" SELECT jobs.id\n   FROM public.jobs", "select jobs.id from public.jobs;"},
		{"SELECT a::text||'x;  --' AS \"A b\"", "SELECT a :: text || 'x;  --'as \"A b\""},
		{"SELECT $q$ a -- $q$, 'it''s', 1.5", "select $q$ a -- $q$,\r'it''s' , 1.5"},
		{"SELECT 1+/* c */2", "SELECT 1 + 2"},
		{"SELECT \u00e4 FROM t", "SELECT\f\u00e4 FROM t"},
	} {
		if !SameText(c.a, c.b) || !SameText(c.b, c.a) {
			t.Errorf("%q and %q differ", c.a, c.b)
		}
	}
	for _, c := range []struct{ a, b string }{
		{"SELECT 'a'", "SELECT 'A'"},
		{`SELECT "a"`, `SELECT "A"`},
		{`SELECT "a"`, `SELECT a`},
		{"SELECT $q$a$q$", "SELECT $q$A$q$"},
		{"SELECT $q$a$q$", "SELECT $Q$a$Q$"},
		{"SELECT $$a  b$$", "SELECT $$a b$$"},
		{"SELECT 'a  b'", "SELECT 'a b'"},
		{"SELECT 'a'\n'b'", "SELECT 'a' 'b'"}, // one string, or an error
		{"SELECT e'a'", "SELECT e 'a'"},
		{"SELECT E'a'", "SELECT e'a'"}, // the same, which SameText does not know
		{`SELECT 'a\', 1, ' --'`, `SELECT 'a\', 1, ' /* */ --'`},
		{"SELECT U&'a'", "SELECT u & 'a'"},
		{`SELECT U&"a"`, `SELECT u & "a"`},
		{"SELECT a--1\n", "SELECT a - -1"},
		{"SELECT a- -1", "SELECT a -1"},
		{"SELECT a@-1", "SELECT a@ -1"},
		{"SELECT a/*", "SELECT a/* "},
		{"SELECT a /* c", "SELECT a"},
		{"SELECT ab", "SELECT a b"},
		{"SELECT 1.e-5", "SELECT 1.e - 5"},
		{"SELECT 1e-5", "SELECT 1e - 5"},
		{"SELECT 1e5", "SELECT 1 e5"},
		{"SELECT 1$$a$$", "SELECT 1$$A$$"},
		{"SELECT a.$$a$$", "SELECT a.$$A$$"},
		{"SELECT $1", "SELECT $ 1"},
		{"SELECT a\vb", "SELECT a b"},
		{"SELECT 1; SELECT 2", "SELECT 1 SELECT 2"},
		{"SELECT 'a", "SELECT  'a"},
		{"SELECT \u00c4", "SELECT \u00e4"},
		{"SELECT a", "SELECT\u00a0a"},
	} {
		if SameText(c.a, c.b) || SameText(c.b, c.a) {
			t.Errorf("%q and %q are taken for the same", c.a, c.b)
		}
	}
}

func TestIndexSameText(t *testing.T) {
	x := Index{Keys: []string{"id", "lower(name) DESC"}, Where: "(status = 'x')", Method: DefaultMethod}
	y := x
	y.Keys, y.Where = []string{"ID", "lower ( name ) desc"}, "( status='x' )"
	if !x.SameText(y) || x.Equal(y) {
		t.Error("another layout makes another text")
	}
	for _, keys := range [][]string{{"id"}, {"id;", "lower(name) DESC"}, {"id", "lower(name)"}, {"lower(name) DESC", "id"}} {
		y.Keys = keys
		if x.SameText(y) {
			t.Errorf("%q is taken for %q", keys, x.Keys)
		}
	}
	y = x
	y.Unique = true
	if x.SameText(y) {
		t.Error("a unique index is taken for another")
	}
}

func FuzzSameText(f *testing.F) {
	f.Add("SELECT 'a', $q$b$q$ -- c\n;", "select 'a' , $q$b$q$")
	f.Fuzz(func(t *testing.T, a, b string) {
		if SameText(a, b) != SameText(b, a) || !SameText(a, a) {
			t.Errorf("%q and %q: it depends on the order", a, b)
		}
		// Layout between the tokens does not change them.
		if x, ok := tokens(a); ok {
			joined := ""
			for _, token := range x {
				joined += token + "\n"
			}
			if !SameText(a, joined) {
				t.Errorf("%q falls apart otherwise than %q", joined, a)
			}
		}
	})
}
