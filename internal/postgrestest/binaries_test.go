package postgrestest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// openTempDir is a t.TempDir that the server's user can reach.
func openTempDir(t *testing.T) string {
	t.Helper()
	a, err := serverAccount()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := makeDir(a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func script(t *testing.T, file, body string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// fakeServer writes a postgres that prints a version, and an initdb.
func fakeServer(t *testing.T, dir, version string) {
	t.Helper()
	script(t, filepath.Join(dir, "postgres"), fmt.Sprintf("echo 'postgres (PostgreSQL) %s'", version))
	script(t, filepath.Join(dir, "initdb"), "")
}

func TestFind(t *testing.T) {
	tests := map[string]struct {
		arrange   func(t *testing.T, root string, f *finder)
		want      string // below root
		wantMajor int
		wantErr   []string
	}{
		"the explicit directory goes before PATH": {
			arrange: func(t *testing.T, root string, f *finder) {
				fakeServer(t, root+"/explicit", "14.2")
				fakeServer(t, root+"/path", "17.1")
				f.explicit = root + "/explicit"
			},
			want: "explicit", wantMajor: 14,
		},
		"a missing explicit directory is an error": {
			arrange: func(t *testing.T, root string, f *finder) {
				fakeServer(t, root+"/path", "17.1")
				f.explicit = root + "/explicit"
			},
			wantErr: []string{"MATVIEW_TEST_POSTGRES_BIN", "/explicit has no program postgres"},
		},
		"an explicit directory with an old version is an error": {
			arrange: func(t *testing.T, root string, f *finder) {
				fakeServer(t, root+"/explicit", "12.22")
				f.explicit = root + "/explicit"
			},
			wantErr: []string{"is PostgreSQL 12, older than 13"},
		},
		"PATH goes before newer versions elsewhere": {
			arrange: func(t *testing.T, root string, f *finder) {
				fakeServer(t, root+"/path", "15.13 (Debian 15.13-0+deb12u1)")
				fakeServer(t, root+"/usual/17/bin", "17.1")
			},
			want: "path", wantMajor: 15,
		},
		"links in PATH are followed": {
			arrange: func(t *testing.T, root string, f *finder) {
				fakeServer(t, root+"/real", "16.9")
				if err := os.MkdirAll(root+"/path", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(root+"/real/postgres", root+"/path/postgres"); err != nil {
					t.Fatal(err)
				}
			},
			want: "real", wantMajor: 16,
		},
		"the newest usable major of the usual directories": {
			arrange: func(t *testing.T, root string, f *finder) {
				fakeServer(t, root+"/usual/9.6/bin", "9.6.24")
				fakeServer(t, root+"/usual/13/bin", "13.21")
				fakeServer(t, root+"/usual/18/bin", "18beta1")
				script(t, root+"/usual/19/bin/postgres", "echo broken; exit 1")
				script(t, root+"/usual/19/bin/initdb", "")
			},
			want: "usual/18/bin", wantMajor: 18,
		},
		"installing comes last": {
			arrange: func(t *testing.T, root string, f *finder) {
				f.install = func(context.Context) error {
					fakeServer(t, root+"/usual/17/bin", "17.1")
					return nil
				}
			},
			want: "usual/17/bin", wantMajor: 17,
		},
		"nothing works": {
			arrange: func(t *testing.T, root string, f *finder) {
				script(t, root+"/usual/17/bin/postgres", "echo no libssl; exit 1")
				script(t, root+"/usual/17/bin/initdb", "")
			},
			wantErr: []string{
				"no PostgreSQL server found", "apt-get install postgresql",
				"MATVIEW_TEST_POSTGRES_BIN", "MATVIEW_TEST_DATABASE_URL",
				"no libssl", "cannot install",
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := openTempDir(t)
			f := finder{
				path:    filepath.Join(root, "nothing") + ":" + filepath.Join(root, "path"),
				dirs:    []string{filepath.Join(root, "usual", "*", "bin")},
				install: func(context.Context) error { return errors.New("cannot install") },
			}
			test.arrange(t, root, &f)
			got, err := f.find(t.Context())
			if test.wantErr != nil {
				if err == nil {
					t.Fatalf("found %v, want an error", got)
				}
				for _, want := range test.wantErr {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("error %q does not say %q", err, want)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := filepath.Join(root, test.want); got.dir != want || got.version/10000 != test.wantMajor {
				t.Errorf("found %v, want %s, PostgreSQL %d", got, want, test.wantMajor)
			}
		})
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
