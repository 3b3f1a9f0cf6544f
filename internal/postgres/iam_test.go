package postgres_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// noAWS hides this machine's settings for AWS, and sets the credentials that the tests
// expect.
func noAWS(t *testing.T) {
	t.Helper()
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_WEB_IDENTITY_TOKEN_FILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret of the environment")
}

func TestIAMLogsInWithTokens(t *testing.T) {
	noEnvironment(t)
	noAWS(t)
	rds := startRDS(t)
	config := postgres.Config{Host: "127.0.0.1", Port: rds.port, Database: "db", Username: "the user", IAM: &postgres.IAM{Region: "eu-central-1"}}
	for range 2 {
		rds.login(t, config)
	}
	for _, password := range rds.passwords() {
		checkToken(t, password, token{port: rds.port, user: "the user", region: "eu-central-1", key: "AKIDEXAMPLE", secret: "secret of the environment"})
	}
}

// Through a tunnel, the token is for the database's own host and port.
func TestIAMEndpoint(t *testing.T) {
	noEnvironment(t)
	noAWS(t)
	rds := startRDS(t)
	config := postgres.Config{Host: "127.0.0.1", Port: rds.port, Database: "db", Username: "me", IAM: &postgres.IAM{Region: "eu-central-1", Endpoint: "app.cluster.example:5432"}}
	rds.login(t, config)
	for _, password := range rds.passwords() {
		if !strings.HasPrefix(password, "app.cluster.example:5432?") {
			t.Errorf("the token %s is for another host", password)
		}
	}
	config.IAM.Endpoint = "app.cluster.example"
	if _, err := config.PoolConfig(); err == nil || !strings.Contains(err.Error(), `aws_rds_iam_endpoint must be HOST:PORT, but "app.cluster.example" is not`) {
		t.Errorf("%v", err)
	}
}

// A token is valid for 15 minutes from the time in its signature, so each connection of
// a pool must have a token of its own.
func TestIAMTokensAreNew(t *testing.T) {
	noEnvironment(t)
	noAWS(t)
	t.Setenv("AWS_REGION", "us-east-1")
	rds := startRDS(t)
	pool, err := postgres.Open(t.Context(), postgres.Config{Host: "127.0.0.1", Port: rds.port, Database: "db", Username: "me", IAM: &postgres.IAM{}})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	before := time.Now()
	for range 2 {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Conn().Close(t.Context()) // so that the next one is new
		conn.Release()
		// The signed time has a resolution of a second.
		for second := time.Now().Unix(); time.Now().Unix() == second; {
			time.Sleep(10 * time.Millisecond)
		}
	}
	if got := rds.passwords(); len(got) != 2 || got[0] == got[1] {
		t.Errorf("tokens %q", got)
	}
	if took := time.Since(before); took > time.Minute {
		t.Logf("it took %s", took)
	}
}

func TestIAMProfile(t *testing.T) {
	noEnvironment(t)
	noAWS(t)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("[other]\naws_access_key_id = AKIDPROFILE\naws_secret_access_key = secret of the profile\nregion = us-west-2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file)
	rds := startRDS(t)
	rds.login(t, postgres.Config{Host: "127.0.0.1", Port: rds.port, Database: "db", Username: "me", IAM: &postgres.IAM{Profile: "other"}})
	checkToken(t, rds.passwords()[0], token{port: rds.port, user: "me", region: "us-west-2", key: "AKIDPROFILE", secret: "secret of the profile"})
}

func TestIAMAssumesRole(t *testing.T) {
	noEnvironment(t)
	noAWS(t)
	const arn = "arn:aws:iam::123456789012:role/reader"
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil || r.Form.Get("Action") != "AssumeRole" || r.Form.Get("RoleArn") != arn {
			http.Error(w, "unexpected", http.StatusBadRequest)
			return
		}
		_, _ = fmt.Fprintf(w, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
<AccessKeyId>AKIDROLE</AccessKeyId><SecretAccessKey>secret of the role</SecretAccessKey><SessionToken>session</SessionToken>
<Expiration>%s</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	defer sts.Close()
	t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)
	rds := startRDS(t)
	rds.login(t, postgres.Config{Host: "127.0.0.1", Port: rds.port, Database: "db", Username: "me", IAM: &postgres.IAM{Region: "eu-west-1", RoleARN: arn}})
	checkToken(t, rds.passwords()[0], token{port: rds.port, user: "me", region: "eu-west-1", key: "AKIDROLE", secret: "secret of the role", session: "session"})
}

func TestIAMRefuses(t *testing.T) {
	noEnvironment(t)
	noAWS(t)
	for name, c := range map[string]struct {
		config postgres.Config
		want   string
	}{
		"without TLS":   {postgres.Config{Host: "h", SSLMode: "disable"}, "a token must not be sent without TLS"},
		"TLS at will":   {postgres.Config{Host: "h", SSLMode: "allow"}, "a token must not be sent without TLS"},
		"several hosts": {postgres.Config{URL: "postgres://a,b/db?sslmode=require"}, "a token is valid for one server"},
	} {
		t.Run(name, func(t *testing.T) {
			c.config.IAM = &postgres.IAM{Region: "eu-west-1"}
			_, err := c.config.PoolConfig()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	for name, c := range map[string]struct {
		iam  postgres.IAM
		env  string // to empty
		want string
	}{
		"no region":      {iam: postgres.IAM{}, want: "no region is configured; set aws_rds_iam_region, or AWS_REGION"},
		"no credentials": {iam: postgres.IAM{Region: "eu-west-1"}, env: "AWS_ACCESS_KEY_ID", want: `database "db", as user "me": IAM authentication: retrieve AWS credentials to sign a token: `},
		"no profile":     {iam: postgres.IAM{Region: "eu-west-1", Profile: "gone"}, want: "gone"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.env != "" {
				t.Setenv(c.env, "")
			}
			rds := startRDS(t)
			message := connect(t, postgres.Config{Host: "127.0.0.1", Port: rds.port, Database: "db", Username: "me", IAM: &c.iam})
			if !strings.Contains(message, c.want) || strings.Contains(message, "secret of") {
				t.Error(message)
			}
			if len(rds.passwords()) != 0 {
				t.Error("it logged in")
			}
		})
	}
}

// A server without TLS gets no token, although sslmode prefer, the default, would
// continue without TLS.
func TestIAMNeedsTLS(t *testing.T) {
	noEnvironment(t)
	noAWS(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan any, 10)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			backend := pgproto3.NewBackend(conn, conn)
			message, _ := backend.ReceiveStartupMessage()
			asked <- message
			_, _ = conn.Write([]byte{'N'})
			message, _ = backend.ReceiveStartupMessage()
			asked <- message
			_ = conn.Close()
		}
	}()
	got := connect(t, postgres.Config{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, Database: "db", Username: "me", Password: "ignored", IAM: &postgres.IAM{Region: "eu-west-1"}})
	if !strings.Contains(got, "the server does not support TLS") {
		t.Error(got)
	}
	if first, then := <-asked, <-asked; fmt.Sprintf("%T", first) != "*pgproto3.SSLRequest" || then != nil || len(asked) > 0 {
		t.Errorf("it sent %T, then %T, and %d more", first, then, len(asked))
	}
}

// token is the content of a token.
type token struct {
	port                               int
	user, region, key, secret, session string
}

// checkToken verifies the signature like AWS.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html
func checkToken(t *testing.T, got string, want token) {
	t.Helper()
	u, err := url.Parse("https://" + got)
	if err != nil {
		t.Fatalf("%q: %v", got, err)
	}
	query := u.Query()
	signature := query.Get("X-Amz-Signature")
	query.Del("X-Amz-Signature")
	date := query.Get("X-Amz-Date")
	if len(date) < 8 {
		t.Fatalf("no date: %s", got)
	}
	scope := date[:8] + "/" + want.region + "/rds-db/aws4_request"
	host := fmt.Sprintf("127.0.0.1:%d", want.port)
	for name, value := range map[string]string{
		"Action": "connect", "DBUser": want.user, "X-Amz-Expires": "900", "X-Amz-Credential": want.key + "/" + scope,
		"X-Amz-Security-Token": want.session, "X-Amz-SignedHeaders": "host",
	} {
		if query.Get(name) != value {
			t.Errorf("%s is %q, want %q", name, query.Get(name), value)
		}
	}
	if u.Host != host {
		t.Errorf("it is for %s, want %s", u.Host, host)
	}
	sum := func(text string) string { s := sha256.Sum256([]byte(text)); return hex.EncodeToString(s[:]) }
	sign := func(key []byte, text string) []byte {
		mac := hmac.New(sha256.New, key)
		_, _ = io.WriteString(mac, text)
		return mac.Sum(nil)
	}
	request := "GET\n/\n" + strings.ReplaceAll(query.Encode(), "+", "%20") + "\nhost:" + host + "\n\nhost\n" + sum("")
	key := []byte("AWS4" + want.secret)
	for _, part := range strings.Split(scope, "/") {
		key = sign(key, part)
	}
	if hex.EncodeToString(sign(key, "AWS4-HMAC-SHA256\n"+date+"\n"+scope+"\n"+sum(request))) != signature {
		t.Errorf("the signature is wrong: %s", got)
	}
}

// rds is a server that asks for a cleartext password over TLS, as RDS does for tokens,
// and accepts any.
type rds struct {
	port int
	got  chan string
}

func startRDS(t *testing.T) *rds {
	t.Helper()
	ca := newAuthority(t)
	return startTLS(t, func() (certificate, key []byte) { return ca.issue(t, "127.0.0.1") })
}

func startTLS(t *testing.T, issue func() (certificate, key []byte)) *rds {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	certificate, err := tls.X509KeyPair(issue())
	if err != nil {
		t.Fatal(err)
	}
	s := &rds{port: listener.Addr().(*net.TCPAddr).Port, got: make(chan string, 100)}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go s.serve(conn, &tls.Config{Certificates: []tls.Certificate{certificate}})
		}
	}()
	return s
}

func (s *rds) serve(conn net.Conn, config *tls.Config) {
	defer conn.Close()
	if message, err := pgproto3.NewBackend(conn, conn).ReceiveStartupMessage(); err != nil {
		return
	} else if _, ok := message.(*pgproto3.SSLRequest); !ok {
		return
	}
	if _, err := conn.Write([]byte{'S'}); err != nil {
		return
	}
	encrypted := tls.Server(conn, config)
	backend := pgproto3.NewBackend(encrypted, encrypted)
	if _, err := backend.ReceiveStartupMessage(); err != nil {
		return
	}
	backend.Send(&pgproto3.AuthenticationCleartextPassword{})
	if backend.Flush() != nil || backend.SetAuthType(pgproto3.AuthTypeCleartextPassword) != nil {
		return
	}
	message, err := backend.Receive()
	password, ok := message.(*pgproto3.PasswordMessage)
	if err != nil || !ok {
		return
	}
	s.got <- password.Password
	backend.Send(&pgproto3.AuthenticationOk{})
	backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	for backend.Flush() == nil {
		message, err := backend.Receive()
		if err != nil {
			return
		}
		if _, ok := message.(*pgproto3.Query); ok {
			backend.Send(&pgproto3.EmptyQueryResponse{})
			backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		}
	}
}

func (s *rds) passwords() (all []string) {
	for {
		select {
		case password := <-s.got:
			all = append(all, password)
		default:
			return slices.Clip(all)
		}
	}
}

func (s *rds) login(t *testing.T, c postgres.Config) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	pool, err := postgres.Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	conn.Release()
}
