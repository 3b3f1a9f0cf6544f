package postgres_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
	"github.com/matview/terraform-provider-matview/internal/postgrestest"
)

// authority issues certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         string
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{certificate: certificate, key: key, pem: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

// issue issues a certificate for a host or a user.
func (a authority) issue(t *testing.T, name string) (certificate, key []byte) {
	t.Helper()
	return a.issueUntil(t, name, time.Now().Add(time.Hour))
}

func (a authority) issueUntil(t *testing.T, name string, until time.Time) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &private.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// tlsServer is a PostgreSQL server with TLS and roles for each authentication method.
func tlsServer(t *testing.T, ca authority) postgres.Config {
	t.Helper()
	noEnvironment(t)
	server, err := postgrestest.Start(t.Context(), postgrestest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	conn, err := pgx.Connect(t.Context(), server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	// The server writes these files itself, as it must own the key.
	write := func(name, text string) {
		t.Helper()
		exec(fmt.Sprintf("COPY (SELECT unnest(string_to_array($text$%s$text$, E'\\n'))) TO PROGRAM 'umask 077; cat > %s' WITH (FORMAT csv, QUOTE E'\\x01')",
			strings.TrimSuffix(text, "\n"), name))
	}
	certificate, key := ca.issue(t, "127.0.0.1")
	write("server.crt", string(certificate))
	write("server.key", string(key))
	write("root.crt", ca.pem)
	exec("ALTER SYSTEM SET ssl_ca_file = 'root.crt'")
	exec("ALTER SYSTEM SET ssl = on")
	exec("CREATE ROLE cert_user LOGIN")
	exec("CREATE ROLE scram_user LOGIN PASSWORD 'secret'")
	exec("SET password_encryption = md5")
	exec("CREATE ROLE md5_user LOGIN PASSWORD 'secret'")
	write("pg_hba.conf", `local all all trust
hostssl all cert_user 127.0.0.1/32 cert
hostssl all md5_user 127.0.0.1/32 md5
hostssl all scram_user 127.0.0.1/32 scram-sha-256
host all postgres 127.0.0.1/32 scram-sha-256
`)
	exec("SELECT pg_reload_conf()")
	u, err := pgx.ParseConfig(server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	c := postgres.Config{Host: u.Host, Port: int(u.Port), Database: "postgres", Username: "scram_user", Password: "secret"}
	probe := c
	probe.SSLMode = "require"
	waitForLogin(t, probe)
	return c
}

// waitForLogin waits until the server has read its new configuration.
func waitForLogin(t *testing.T, c postgres.Config) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		pool, err := postgres.Open(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		err = pool.Ping(ctx)
		pool.Close()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// encrypted reports how the login went and whether TLS was used.
func encrypted(t *testing.T, c postgres.Config) bool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	var ssl bool
	if err := pool.QueryRow(t.Context(), "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").Scan(&ssl); err != nil {
		t.Fatal(postgres.Message(err))
	}
	return ssl
}

func TestTLS(t *testing.T) {
	ca := newAuthority(t)
	base := tlsServer(t, ca)
	file := func(text string) string {
		name := filepath.Join(t.TempDir(), "x.pem")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	certificate, key := ca.issue(t, "cert_user")
	with := func(change func(*postgres.Config)) postgres.Config {
		c := base
		change(&c)
		return c
	}
	for name, c := range map[string]postgres.Config{
		"by default":                      base,
		"require":                         with(func(c *postgres.Config) { c.SSLMode = "require" }),
		"verify-ca":                       with(func(c *postgres.Config) { c.SSLMode, c.SSLRootCert = "verify-ca", file(ca.pem) }),
		"verify-ca, another name":         with(func(c *postgres.Config) { c.SSLMode, c.SSLRootCert, c.Host = "verify-ca", file(ca.pem), "localhost" }),
		"verify-full":                     with(func(c *postgres.Config) { c.SSLMode, c.SSLRootCert = "verify-full", file(ca.pem) }),
		"verify-full, certificate inline": with(func(c *postgres.Config) { c.SSLMode, c.SSLRootCert = "verify-full", ca.pem }),
		"md5":                             with(func(c *postgres.Config) { c.Username = "md5_user" }),
		"client certificate": with(func(c *postgres.Config) {
			c.Username, c.Password, c.SSLMode, c.SSLRootCert = "cert_user", "", "verify-full", file(ca.pem)
			c.SSLCert, c.SSLKey = file(string(certificate)), file(string(key))
		}),
		"client certificate inline": with(func(c *postgres.Config) {
			c.Username, c.Password, c.SSLMode, c.SSLRootCert = "cert_user", "", "verify-full", ca.pem
			c.SSLCert, c.SSLKey = string(certificate), string(key)
		}),
		"channel binding":               with(func(c *postgres.Config) { c.URL = "channel_binding=require" }),
		"behind a PgBouncer's settings": with(func(c *postgres.Config) { c.PgBouncer = true }),
	} {
		t.Run(name, func(t *testing.T) {
			if !encrypted(t, c) {
				t.Error("no TLS")
			}
		})
	}
	other := newAuthority(t)
	for name, c := range map[string]struct {
		config postgres.Config
		want   string
	}{
		"another authority":            {with(func(c *postgres.Config) { c.SSLMode, c.SSLRootCert = "verify-full", other.pem }), "is signed by an authority that is not trusted; set sslrootcert"},
		"another authority, verify-ca": {with(func(c *postgres.Config) { c.SSLMode, c.SSLRootCert = "verify-ca", other.pem }), "is signed by an authority that is not trusted; set sslrootcert"},
		"the machine's authorities":    {with(func(c *postgres.Config) { c.SSLMode = "verify-full" }), "is signed by an authority that is not trusted; set sslrootcert"},
		"another name":                 {with(func(c *postgres.Config) { c.SSLMode, c.SSLRootCert, c.Host = "verify-full", ca.pem, "localhost" }), "the server's certificate is not for localhost but for 127.0.0.1"},
		"a certificate of another user": {with(func(c *postgres.Config) {
			cert, key := ca.issue(t, "somebody")
			c.Username, c.SSLCert, c.SSLKey = "cert_user", string(cert), string(key)
		}), `certificate authentication failed for user "cert_user"; the client certificate belongs to another user`},
		"a certificate of another authority": {with(func(c *postgres.Config) {
			cert, key := other.issue(t, "cert_user")
			c.Username, c.SSLCert, c.SSLKey = "cert_user", string(cert), string(key)
		}), "; check the client certificate"},
		// The attempt without TLS, which sslmode prefer adds, says nothing about the cause.
		"no standby":                      {with(func(c *postgres.Config) { c.URL = "target_session_attrs=standby" }), "server is not in hot standby mode; target_session_attrs requires another"},
		"no channel binding":              {with(func(c *postgres.Config) { c.URL, c.Username = "channel_binding=require", "md5_user" }), "channel binding required but server did not authenticate using channel binding"},
		"no client certificate":           {with(func(c *postgres.Config) { c.Username, c.SSLMode = "cert_user", "require" }), "client certificate; set clientcert,"},
		"wrong password, scram":           {with(func(c *postgres.Config) { c.Password = "not this" }), "check username and password"},
		"wrong password, md5":             {with(func(c *postgres.Config) { c.Username, c.Password = "md5_user", "not this" }), "check username and password"},
		"nobody of that name":             {with(func(c *postgres.Config) { c.Username, c.SSLMode = "nobody", "require" }), "; check host, username, database and the server's pg_hba.conf"},
		"no TLS where the server asks it": {with(func(c *postgres.Config) { c.SSLMode = "disable" }), "; the server may want TLS: set sslmode to require or better"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := connect(t, c.config); !strings.Contains(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	for name, c := range map[string]postgres.Config{
		"a key that is none":        with(func(c *postgres.Config) { c.SSLCert, c.SSLKey = string(certificate), "-----BEGIN nothing" }),
		"a certificate without key": with(func(c *postgres.Config) { c.SSLCert = string(certificate) }),
		"a file that is not there":  with(func(c *postgres.Config) { c.SSLRootCert = "/nowhere/root.crt" }),
		"an authority that is none": with(func(c *postgres.Config) { c.SSLRootCert = "-----BEGIN nothing" }),
		"a key of another certificate": with(func(c *postgres.Config) {
			_, k := ca.issue(t, "x")
			c.SSLCert, c.SSLKey = string(certificate), string(k)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.PoolConfig()
			if err == nil || strings.Contains(err.Error(), "matview-") {
				t.Errorf("got %v, want an error that names no temporary file", err)
			}
		})
	}
	block, _ := pem.Decode(key)
	for name, c := range map[string]struct{ key, want string }{
		"in PKCS #8":   {"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAAwAA==\n-----END ENCRYPTED PRIVATE KEY-----\n", "if the key is encrypted, decrypt it"},
		"in OpenSSL's": {string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: block.Bytes})), "the key is encrypted: decrypt it"},
	} {
		t.Run("an encrypted key "+name, func(t *testing.T) {
			_, err := with(func(x *postgres.Config) { x.SSLCert, x.SSLKey = string(certificate), c.key }).PoolConfig()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "matview-*.pem"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestExpiredCertificate(t *testing.T) {
	noEnvironment(t)
	ca := newAuthority(t)
	server := startTLS(t, func() (certificate, key []byte) { return ca.issueUntil(t, "127.0.0.1", time.Now().Add(-time.Minute)) })
	for _, mode := range []string{"verify-ca", "verify-full"} {
		got := connect(t, postgres.Config{Host: "127.0.0.1", Port: server.port, Database: "db", Username: "me", Password: "secret", SSLMode: mode, SSLRootCert: ca.pem})
		if want := "the server's certificate is not valid: certificate has expired or is not yet valid: current time "; !strings.Contains(got, want) {
			t.Errorf("%s: %s", mode, got)
		}
	}
	if got := server.passwords(); len(got) > 0 {
		t.Errorf("the server got %q", got)
	}
}
