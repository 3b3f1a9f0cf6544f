//go:build e2e

package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestE2ETLS: a real Prometheus scrapes over TLS with a name and a password, and
// nobody does without.
func TestE2ETLS(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS x; INSERT INTO materialized_view_refresh_schedule (view_name, every) VALUES ('v', '1 day')`)
	dir, address := t.TempDir(), freeAddress(t)
	certFile, keyFile, pool := selfSigned(t, dir)
	const hash = "$2a$10$BJrrSoyujZfQ0dqdaUUjGO3aItyjQHOuTF4VBuTVr/2KyAzLIaSlm" // of "password"
	web := filepath.Join(dir, "web.yml")
	writeFile(t, web, fmt.Sprintf("tls_server_config: {cert_file: %s, key_file: %s}\nbasic_auth_users: {prometheus: %q}\n",
		filepath.Base(certFile), filepath.Base(keyFile), hash))
	exporterProcess(t, "--database.url="+db.URL(), "run", "--web.config.file="+web, "--web.listen-address="+address)

	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}, Timeout: 10 * time.Second}
	get := func(password string) (code int, body string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+"/metrics", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("prometheus", password)
		resp, err := client.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	eventually(t, "a scrape with the password", func() bool {
		code, body := get("password")
		return code == http.StatusOK && strings.Contains(body, `matview_stale{view="v"} 0`)
	})
	if code, body := get("wrong"); code != http.StatusUnauthorized || strings.Contains(body, "matview_") {
		t.Errorf("with a wrong password: %d %s", code, body)
	}
	if code, body := fetch(t, "http://"+address+"/metrics"); code == http.StatusOK || strings.Contains(body, "matview_") {
		t.Errorf("without TLS: %d %s", code, body)
	}

	_, body := get("password")
	check := osexec.Command("promtool", "check", "metrics")
	check.Stdin = strings.NewReader(ours(body))
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}

	job := func(name, password, ca string) string {
		return fmt.Sprintf("- {job_name: %s, scheme: https, basic_auth: {username: prometheus, password: %q}, tls_config: {%s}, static_configs: [{targets: [%q]}]}\n", name, password, ca, address)
	}
	base := prometheusOver(t, job("matview-exporter", "password", "ca_file: "+certFile)+job("wrong-password", "wrong", "ca_file: "+certFile)+job("unknown-authority", "password", ""))
	eventually(t, "Prometheus has scraped", func() bool {
		return len(query(t, base, `matview_stale{job="matview-exporter", view="v"} == 0`)) == 1 && len(query(t, base, "up")) == 3
	})
	if up := query(t, base, "up == 1"); len(up) != 1 || up[0].Metric["job"] != "matview-exporter" {
		t.Errorf("these scrapes succeed: %v", up)
	}
}

// ours are the lines about our own metrics: those of the Go runtime are
// client_golang's.
func ours(metrics string) string {
	var b strings.Builder
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE "), "matview_") {
			b.WriteString(line)
		}
	}
	return b.String()
}
