package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// selfSigned writes a certificate for 127.0.0.1 and its key.
func selfSigned(t *testing.T, dir string) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	writeFile(t, certFile, string(cert))
	writeFile(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return certFile, keyFile, pool
}

// hashOfPassword is what bcrypt makes of "password".
const hashOfPassword = "$2a$10$BJrrSoyujZfQ0dqdaUUjGO3aItyjQHOuTF4VBuTVr/2KyAzLIaSlm"

// request is how a test asks over TLS.
type request struct {
	path, user, password, bearer, tag string
}

// over sends a request; err is that of a connection.
func over(t *testing.T, client *http.Client, url string, r request) (status int, body string, header http.Header, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+r.path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if r.user != "" {
		req.SetBasicAuth(r.user, r.password)
	}
	if r.bearer != "" {
		req.Header.Set("Authorization", "Bearer "+r.bearer)
	}
	if r.tag != "" {
		req.Header.Set("If-None-Match", r.tag)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), resp.Header, err
}

func tlsClient(t *testing.T, pool *x509.CertPool, certificates ...tls.Certificate) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: certificates}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// The API behind TLS and the users of the web configuration: theirs are the only
// credentials, also where the exporter has tokens, and the probes need none.
func TestTLSAndPasswords(t *testing.T) {
	db := installed(t)
	db.Exec(t, `CREATE MATERIALIZED VIEW v AS SELECT 1 AS id, 'a value' AS text; CREATE UNIQUE INDEX ON v (id)`)
	dir := t.TempDir()
	certFile, keyFile, pool := selfSigned(t, dir)
	web := filepath.Join(dir, "web.yml")
	writeFile(t, web, fmt.Sprintf("tls_server_config: {cert_file: %s, key_file: %s}\nbasic_auth_users: {somebody: %q}\n", certFile, keyFile, hashOfPassword))
	d := startDaemon(t, db.URL(), "auth: {bearer_tokens_file: tokens}\nroutes: [{path: '/v/{id}', view: v}, {path: '/open/{id}', view: v, public: true}]\n",
		"--no-scheduler", "--web.enable-lifecycle", "--web.config.file="+web)
	url, client := strings.Replace(d.url, "http:", "https:", 1), tlsClient(t, pool)

	for _, probe := range []string{"/-/healthy", "/-/ready"} {
		if status, body, _, err := over(t, client, url, request{path: probe}); status != http.StatusOK {
			t.Errorf("%s: %d %s %v", probe, status, body, err)
		}
	}
	for _, path := range []string{"/", "/v/1", "/open/1", "/cache/status", "/cache/status/v", "/cache/views/v", "/metrics", "/-/reload", "/-/icon.svg", "/no-such"} {
		for name, r := range map[string]request{
			"nothing":           {},
			"a wrong password":  {user: "somebody", password: "wrong"},
			"no password":       {user: "somebody"},
			"an unknown user":   {user: "nobody", password: "password"},
			"a token":           {bearer: testToken},
			"a token, as basic": {user: "somebody", password: testToken},
			"an ETag":           {tag: "*"},
		} {
			r.path = path
			status, body, header, err := over(t, client, url, r)
			if status != http.StatusUnauthorized || header.Get("WWW-Authenticate") == "" || strings.Contains(body, "v") && strings.Contains(body, "value") {
				t.Errorf("%s with %s: %d %s %v", path, name, status, body, err)
			}
		}
	}
	known := request{user: "somebody", password: "password"}
	for path, want := range map[string]string{"/": "Materialized views", "/v/1": `"text":"a value","data_source":"cached"`, "/cache/status/v": `"view_name":"v"`, "/metrics": "matview_up 1"} {
		known.path = path
		if status, body, _, err := over(t, client, url, known); status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s %v", path, status, body, err)
		}
	}
	known.path = "/v/1"
	_, _, header, _ := over(t, client, url, known)
	known.tag = header.Get("ETag")
	if status, body, _, err := over(t, client, url, known); status != http.StatusNotModified || body != "" {
		t.Errorf("with its ETag: %d %s %v", status, body, err)
	}
	if status, body := fetch(t, d.url+"/v/1"); status != http.StatusBadRequest || strings.Contains(body, "value") {
		t.Errorf("without TLS: %d %s", status, body)
	}
	if log := d.log.String(); strings.Contains(log, "password") || strings.Contains(log, testToken) {
		t.Errorf("the log shows credentials: %s", log)
	}
}

// A connection made before the web configuration asked for certificates has
// proved nothing by being there.
func TestConnectionOlderThanItsRules(t *testing.T) {
	db := installed(t)
	dir := t.TempDir()
	certFile, keyFile, pool := selfSigned(t, dir)
	certificate, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	web := filepath.Join(dir, "web.yml")
	const server = "tls_server_config: {cert_file: tls.crt, key_file: tls.key%s}\n"
	writeFile(t, web, fmt.Sprintf(server, ""))
	d := startDaemon(t, db.URL(), "", "--no-scheduler", "--web.config.file="+web)
	url := strings.Replace(d.url, "http:", "https:", 1)
	older, newer, bearer := tlsClient(t, pool), tlsClient(t, pool), tlsClient(t, pool, certificate)
	ask := request{path: "/cache/status"}
	if status, body, _, err := over(t, older, url, ask); status != http.StatusForbidden {
		t.Fatalf("closed: %d %s %v", status, body, err)
	}
	writeFile(t, web, fmt.Sprintf(server, ", client_auth_type: RequireAndVerifyClientCert, client_ca_file: tls.crt"))
	if status, body, _, err := over(t, older, url, ask); status != http.StatusForbidden {
		t.Errorf("the older connection: %d %s %v", status, body, err)
	}
	if status, body, _, err := over(t, newer, url, ask); err == nil {
		t.Errorf("without a certificate: %d %s", status, body)
	}
	if status, body, _, err := over(t, bearer, url, ask); status != http.StatusOK {
		t.Errorf("with a certificate: %d %s %v", status, body, err)
	}
}
