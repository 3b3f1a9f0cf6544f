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
	dir, err := makeFolder(a)
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

// fakeServer writes a postgres that knows its version, and an initdb.
func fakeServer(t *testing.T, dir, version string) {
	t.Helper()
	script(t, filepath.Join(dir, "postgres"), fmt.Sprintf("echo 'postgres (PostgreSQL) %s'", version))
	script(t, filepath.Join(dir, "initdb"), "")
}

func TestFind(t *testing.T) {
	none := func(context.Context) (string, error) { return "", errors.New("cannot install") }
	tests := map[string]struct {
		arrange   func(t *testing.T, root string, m *machine)
		want      string // below root
		wantMajor int
		wantErr   []string
	}{
		"the explicit folder goes before PATH": {
			arrange: func(t *testing.T, root string, m *machine) {
				fakeServer(t, root+"/explicit", "14.2")
				fakeServer(t, root+"/path", "17.1")
				m.explicit = root + "/explicit"
			},
			want: "explicit", wantMajor: 14,
		},
		"a missing explicit folder is an error": {
			arrange: func(t *testing.T, root string, m *machine) {
				fakeServer(t, root+"/path", "17.1")
				m.explicit = root + "/explicit"
			},
			wantErr: []string{"MATVIEW_TEST_POSTGRES_BIN", "/explicit has no program postgres"},
		},
		"an explicit folder with an old version is an error": {
			arrange: func(t *testing.T, root string, m *machine) {
				fakeServer(t, root+"/explicit", "12.22")
				m.explicit = root + "/explicit"
			},
			wantErr: []string{"is PostgreSQL 12, older than 13"},
		},
		"PATH goes before newer versions elsewhere": {
			arrange: func(t *testing.T, root string, m *machine) {
				fakeServer(t, root+"/path", "15.13 (Debian 15.13-0+deb12u1)")
				fakeServer(t, root+"/usual/17/bin", "17.1")
			},
			want: "path", wantMajor: 15,
		},
		"links in PATH are followed": {
			arrange: func(t *testing.T, root string, m *machine) {
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
		"pg_config goes before the usual folders": {
			arrange: func(t *testing.T, root string, m *machine) {
				script(t, root+"/path/pg_config", "echo "+root+"/configured")
				fakeServer(t, root+"/configured", "16.9")
				fakeServer(t, root+"/usual/17/bin", "17.1")
			},
			want: "configured", wantMajor: 16,
		},
		"a pg_config without a server is passed over": {
			arrange: func(t *testing.T, root string, m *machine) {
				script(t, root+"/path/pg_config", "echo "+root+"/path")
				fakeServer(t, root+"/usual/17/bin", "17.1")
			},
			want: "usual/17/bin", wantMajor: 17,
		},
		"the newest usable major of the usual folders": {
			arrange: func(t *testing.T, root string, m *machine) {
				fakeServer(t, root+"/usual/9.6/bin", "9.6.24")
				fakeServer(t, root+"/usual/13/bin", "13.21")
				fakeServer(t, root+"/usual/18/bin", "18beta1")
				script(t, root+"/usual/19/bin/postgres", "echo broken; exit 1")
				script(t, root+"/usual/19/bin/initdb", "")
			},
			want: "usual/18/bin", wantMajor: 18,
		},
		"installs come last, in order": {
			arrange: func(t *testing.T, root string, m *machine) {
				m.installs = []install{none, func(context.Context) (string, error) {
					fakeServer(t, root+"/usual/17/bin", "17.1")
					return "", nil
				}}
			},
			want: "usual/17/bin", wantMajor: 17,
		},
		"an install may name its folder": {
			arrange: func(t *testing.T, root string, m *machine) {
				m.installs = []install{none, func(context.Context) (string, error) {
					fakeServer(t, root+"/cache", "18.3")
					return root + "/cache", nil
				}}
			},
			want: "cache", wantMajor: 18,
		},
		"nothing works": {
			arrange: func(t *testing.T, root string, m *machine) {
				script(t, root+"/usual/17/bin/postgres", "echo no libssl; exit 1")
				script(t, root+"/usual/17/bin/initdb", "")
				m.installs = []install{none}
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
			m := machine{
				path:    filepath.Join(root, "nothing") + ":" + filepath.Join(root, "path"),
				folders: []string{filepath.Join(root, "usual", "*", "bin")},
			}
			test.arrange(t, root, &m)
			got, err := m.find(t.Context())
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
			if want := (binaries{filepath.Join(root, test.want), test.wantMajor}); got != want {
				t.Errorf("found %v, want %v", got, want)
			}
		})
	}
}

func TestForbidDebianClusters(t *testing.T) {
	for _, existing := range []string{"", "admin.conf"} {
		t.Run("existing "+existing, func(t *testing.T) {
			etc := filepath.Join(t.TempDir(), "postgresql-common")
			folder := filepath.Join(etc, "createcluster.d")
			if existing != "" {
				script(t, filepath.Join(folder, existing), "")
			}
			allow, err := forbidDebianClusters(folder)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(folder, "postgrestest.conf")
			if content, err := os.ReadFile(file); string(content) != "create_main_cluster = false\n" {
				t.Errorf("wrote %q (%v)", content, err)
			}
			allow()
			if exists(file) {
				t.Error("the file is still there")
			}
			if got, want := exists(etc), existing != ""; got != want {
				t.Errorf("the folder exists: %v, want %v", got, want)
			}
		})
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
