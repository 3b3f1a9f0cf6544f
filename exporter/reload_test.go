package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// with sends a request with a bearer token.
func with(t *testing.T, method, url, token string) int {
	t.Helper()
	return withHeader(t, method, url, token, "Accept", "*/*")
}

func withHeader(t *testing.T, method, url, token, header, value string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(header, value)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

const reloadable = "auth: {bearer_tokens_file: tokens}\nroutes:\n  - {path: '/v/{id}', view: v}\n"

func TestReload(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS id, 2 AS other; CREATE UNIQUE INDEX ON v (id)`)
	d := startDaemon(t, db.URL(), reloadable, "--no-scheduler", "--web.enable-lifecycle")
	tokens := filepath.Join(filepath.Dir(d.config), "tokens")
	want := func(what string, got, want int) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %d, want %d\n%s", what, got, want, d.log.String())
		}
	}
	want("the row", with(t, http.MethodGet, d.url+"/v/1", testToken), 200)

	// Another token, over HTTP; whoever has none may not even reload.
	writeFile(t, tokens, "next-token\n")
	want("a reload without a token", with(t, http.MethodPost, d.url+"/-/reload", ""), 401)
	want("a reload by GET", with(t, http.MethodGet, d.url+"/-/reload", testToken), 405)
	want("the token before", with(t, http.MethodGet, d.url+"/v/1", testToken), 200)
	want("a reload", with(t, http.MethodPost, d.url+"/-/reload", testToken), 200)
	want("the old token", with(t, http.MethodGet, d.url+"/v/1", testToken), 401)
	want("the new token", with(t, http.MethodGet, d.url+"/v/1", "next-token"), 200)

	for header, value := range map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://elsewhere.example"} {
		want("a reload by another site's page", withHeader(t, http.MethodPost, d.url+"/-/reload", "next-token", header, value), 403)
	}
	want("a reload by our own", withHeader(t, http.MethodPost, d.url+"/-/reload", "next-token", "Sec-Fetch-Site", "same-origin"), 200)

	// What is wrong, in the file, about the view or in the tokens, changes nothing.
	for name, c := range map[string]struct{ config, tokens, log string }{
		"a wrong key": {reloadable + "nonsense: 1\n", "next-token\n", "exporter.yml:4: nonsense: there is no such key"},
		"no token":    {reloadable, "# none\n", "holds no token"},
	} {
		writeFile(t, d.config, c.config)
		writeFile(t, tokens, c.tokens)
		want(name, with(t, http.MethodPost, d.url+"/-/reload", "next-token"), 500)
		if !strings.Contains(d.log.String(), c.log) {
			t.Errorf("%s: the log does not say %s:\n%s", name, c.log, d.log.String())
		}
		want(name+", the old route", with(t, http.MethodGet, d.url+"/v/1", "next-token"), 200)
	}

	// A route that the view does not fit is not served, and keeps nothing else from taking
	// effect: a token that was revoked is.
	writeFile(t, d.config, strings.ReplaceAll(reloadable, "routes:", "routes:\n  - {path: '/wrong/{other}', view: v}"))
	writeFile(t, tokens, "another-token\n")
	want("a route that does not fit", with(t, http.MethodPost, d.url+"/-/reload", "next-token"), 200)
	want("the revoked token", with(t, http.MethodGet, d.url+"/v/1", "next-token"), 401)
	want("the route that fits", with(t, http.MethodGet, d.url+"/v/1", "another-token"), 200)
	want("the route that does not", with(t, http.MethodGet, d.url+"/wrong/1", "another-token"), 503)
	if log := d.log.String(); !strings.Contains(log, "the view v has no unique index on exactly (other)") || !strings.Contains(log, "level=WARN") {
		t.Errorf("the log does not say why:\n%s", log)
	}

	// SIGHUP does the same.
	writeFile(t, tokens, "third-token\n")
	writeFile(t, d.config, strings.ReplaceAll(reloadable, "/v/", "/moved/"))
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new route", func() bool { return with(t, http.MethodGet, d.url+"/moved/1", "third-token") == 200 })
	want("the old route", with(t, http.MethodGet, d.url+"/v/1", "third-token"), 404)
}

// A SIGHUP that comes while the exporter still looks for its database is heard
// once it has started.
func TestHangupWhileStarting(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	asked := make(chan struct{})
	go func() {
		conn, err := silent.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Error(err)
		}
		close(asked)
		_ = silent.Close() // from now on it refuses
	}()
	d := startDaemon(t, "postgres://someone@"+silent.Addr().String()+"/x?sslmode=disable", "public: true\nroutes: [{path: '/v/{id}', view: v}]\n", "--no-scheduler")
	<-asked
	eventually(t, "the reload", func() bool { return strings.Contains(d.log.String(), "configuration reloaded") })
}

// Each address answers, probes to anybody and the rest to those who may.
func TestSeveralAddresses(t *testing.T) {
	web := filepath.Join(t.TempDir(), "web.yml")
	writeFile(t, web, "basic_auth_users:\n  somebody: $2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG\n")
	addresses := []string{freeAddress(t), freeAddress(t), freeAddress(t)}
	args := []string{"--no-scheduler", "--web.config.file=" + web}
	for _, address := range addresses {
		args = append(args, "--web.listen-address="+address)
	}
	d := startDaemon(t, "postgres://someone@127.0.0.1:1/x", "", args...)
	for _, address := range append(addresses, strings.TrimPrefix(d.url, "http://")) {
		eventually(t, address, func() bool { code, _ := fetch(t, "http://"+address+"/-/healthy"); return code == http.StatusOK })
		if code, _ := fetch(t, "http://"+address+"/cache/status"); code != http.StatusUnauthorized {
			t.Errorf("%s: %d", address, code)
		}
	}
	if code := d.stop(); code != 0 {
		t.Errorf("ended with %d", code)
	}
	// One that is taken ends them all.
	taken, err := net.Listen("tcp", addresses[0])
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	code, _, stderr := exec(t, "postgres://someone@127.0.0.1:1/x", append([]string{"run", "--web.listen-address=" + addresses[1]}, args...)...)
	if code != exitFailed || !strings.Contains(stderr, "address already in use") {
		t.Errorf("%d %s", code, stderr)
	}
}

func TestReloadIsOffByDefault(t *testing.T) {
	d := startDaemon(t, "postgres://someone@127.0.0.1:1/x", "", "--no-scheduler")
	if code := with(t, http.MethodPost, d.url+"/-/reload", ""); code != http.StatusForbidden {
		t.Errorf("%d", code)
	}
}

// Basic authentication of the web configuration covers all but the probes.
func TestProbesNeedNoCredentials(t *testing.T) {
	db := installed(t)
	web := filepath.Join(t.TempDir(), "web.yml")
	// The password is "password".
	writeFile(t, web, "basic_auth_users:\n  somebody: $2a$10$BJrrSoyujZfQ0dqdaUUjGO3aItyjQHOuTF4VBuTVr/2KyAzLIaSlm\n")
	d := startDaemon(t, db.URL(), "", "--no-scheduler", "--web.config.file="+web)
	for path, want := range map[string]int{"/-/healthy": 200, "/-/ready": 200, "/": 401, "/cache/status": 401, "/metrics": 401, "/-/reload": 401} {
		if code := with(t, http.MethodGet, d.url+path, ""); code != want {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
	}
	// Without users nobody has proved anything: the API closes.
	writeFile(t, web, "{}\n")
	for path, want := range map[string]int{"/-/healthy": 200, "/": 403, "/cache/status": 403, "/-/reload": 403} {
		if code := with(t, http.MethodGet, d.url+path, ""); code != want {
			t.Errorf("without users, %s: %d, want %d", path, code, want)
		}
	}
}

// A client that sends too much, or too slowly, is cut off.
func TestHostileClients(t *testing.T) {
	d := startDaemon(t, "postgres://someone@127.0.0.1:1/x", "public: true\n", "--no-scheduler")
	address := strings.TrimPrefix(d.url, "http://")
	for name, c := range map[string]struct{ request, want string }{
		"a long URL":     {"GET /jobs/" + strings.Repeat("x", 9000) + " HTTP/1.1\r\nHost: x\r\n\r\n", "414"},
		"a long header":  {"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + strings.Repeat("x", 40_000) + "\r\n\r\n", "431"},
		"a body":         {"GET /cache/status HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n", "413"},
		"chunks":         {"POST /-/reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "403"},
		"half a request": {"GET / HTTP/1.1\r\nHost:", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := fmt.Fprint(conn, c.request); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(conn).ReadString('\n')
			if c.want == "" {
				if err == nil && !strings.Contains(line, "408") || err != nil && strings.Contains(err.Error(), "timeout") {
					t.Errorf("it waits for the rest: %q, %v", line, err)
				}
				return
			}
			if err != nil || !strings.Contains(line, c.want) {
				t.Errorf("%q, %v", line, err)
			}
		})
	}
}
