package provider

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// providerCase is an argument of the provider block with two values, and what comes
// of each and of none: then it is the environment's. withA and withB are what each
// needs besides.
type providerCase struct {
	a, b             any
	inA, inB, inNone string
	withA, withB     map[string]any
}

var withIAM = map[string]any{"aws_rds_iam_auth": true}

func providerCases(certA, keyA, certB, keyB string) map[string]providerCase {
	return map[string]providerCase{
		"host":                          {a: "a.invalid", b: "b.invalid", inA: "a.invalid", inB: "b.invalid", inNone: "env.invalid"},
		"port":                          {a: 1, b: 2, inA: "1", inB: "2", inNone: "7777"},
		"database":                      {a: "a", b: "b", inA: "a", inB: "b", inNone: "envdb"},
		"username":                      {a: "a", b: "b", inA: "a", inB: "b", inNone: "envuser"},
		"password":                      {a: "a", b: "b", inA: "a", inB: "b", inNone: "envpassword"},
		"sslmode":                       {a: "disable", b: "require", inA: "no TLS", inB: "TLS with anybody", inNone: "TLS with env.invalid"},
		"sslrootcert":                   {a: certA, b: certB, inA: "a", inB: "b", inNone: "the system's"},
		"clientcert.cert":               {a: certA, b: certB, withA: map[string]any{"clientcert.key": keyA}, withB: map[string]any{"clientcert.key": keyB}, inA: "a", inB: "b", inNone: "none"},
		"clientcert.key":                {a: keyA, b: keyB, withA: map[string]any{"clientcert.cert": certA}, withB: map[string]any{"clientcert.cert": certB}, inA: "a", inB: "b", inNone: "none"},
		"connect_timeout":               {a: 3, b: 4, inA: "3s", inB: "4s", inNone: "9s"},
		"max_connections":               {a: 3, b: 4, inA: "3", inB: "4", inNone: "20"},
		"url":                           {a: "postgres://a.invalid/x", b: "host=b.invalid dbname=y", inA: "a.invalid x", inB: "b.invalid y", inNone: "env.invalid envdb"},
		"log_schema":                    {a: "a", b: "b c", inA: "a", inB: "b c", inNone: "public"},
		"pgbouncer":                     {a: true, b: false, inA: "cache describe", inB: "cache statement", inNone: "cache statement"},
		"aws_rds_iam_auth":              {a: true, b: false, inA: "true", inB: "false", inNone: "false"},
		"aws_rds_iam_region":            {a: "eu-west-1", b: "eu-west-2", withA: withIAM, withB: withIAM, inA: "eu-west-1", inB: "eu-west-2", inNone: "none"},
		"aws_rds_iam_profile":           {a: "a", b: "b", withA: withIAM, withB: withIAM, inA: "a", inB: "b", inNone: "none"},
		"aws_rds_iam_provider_role_arn": {a: "arn:a", b: "arn:b", withA: withIAM, withB: withIAM, inA: "arn:a", inB: "arn:b", inNone: "none"},
		"aws_rds_iam_endpoint":          {a: "a:5432", b: "b:5432", withA: withIAM, withB: withIAM, inA: "a:5432", inB: "b:5432", inNone: "none"},
	}
}

// settings are what comes of each argument, by name.
func settings(c *client, pool *pgxpool.Config, authorities map[string]string) map[string]string {
	conn, iam := pool.ConnConfig, cmp.Or(c.config.IAM, &postgres.IAM{})
	security, authority, login := "no TLS", "the system's", "none"
	if conn.TLSConfig != nil {
		security = "TLS with " + cmp.Or(conn.TLSConfig.ServerName, "anybody")
		if conn.TLSConfig.InsecureSkipVerify {
			security = "TLS with anybody"
		}
		login = commonName(conn.TLSConfig.Certificates)
		for name, text := range authorities {
			pool := x509.NewCertPool()
			if pool.AppendCertsFromPEM([]byte(text)) && conn.TLSConfig.RootCAs != nil && pool.Equal(conn.TLSConfig.RootCAs) {
				authority = name
			}
		}
	}
	return map[string]string{
		"host": conn.Host, "port": fmt.Sprint(conn.Port), "database": conn.Database, "username": conn.User, "password": conn.Password, "url": conn.Host + " " + conn.Database,
		"sslmode": security, "sslrootcert": authority, "clientcert.cert": login, "clientcert.key": login,
		"connect_timeout": conn.ConnectTimeout.String(), "max_connections": fmt.Sprint(pool.MaxConns), "log_schema": c.logSchema, "pgbouncer": conn.DefaultQueryExecMode.String(),
		"aws_rds_iam_auth":   fmt.Sprint(c.config.IAM != nil),
		"aws_rds_iam_region": cmp.Or(iam.Region, "none"), "aws_rds_iam_profile": cmp.Or(iam.Profile, "none"), "aws_rds_iam_provider_role_arn": cmp.Or(iam.RoleARN, "none"), "aws_rds_iam_endpoint": cmp.Or(iam.Endpoint, "none"),
	}
}

// Each argument of the provider block is set, changed, left out and unknown. That
// TLS, tokens and a pooler then work is tested in internal/postgres, with servers.
func TestProviderAttributes(t *testing.T) {
	for name, value := range map[string]string{
		"PGHOST": "env.invalid", "PGPORT": "7777", "PGDATABASE": "envdb", "PGUSER": "envuser", "PGPASSWORD": "envpassword",
		"PGSSLMODE": "verify-full", "PGCONNECT_TIMEOUT": "9", "PGSSLROOTCERT": "", "PGSSLCERT": "", "PGSSLKEY": "",
	} {
		t.Setenv(name, value)
	}
	certA, keyA := certificate(t, "a")
	certB, keyB := certificate(t, "b")
	cases := providerCases(certA, keyA, certB, keyB)
	for key := range schemaAttributes(t) {
		name, ok := strings.CutPrefix(key, "provider.")
		if !ok {
			continue
		}
		c, ok := cases[name]
		if !ok {
			t.Errorf("%s has no case", key)
			continue
		}
		t.Run(name, func(t *testing.T) {
			for _, with := range []struct {
				value any
				more  map[string]any
				want  string
			}{{c.a, c.withA, c.inA}, {c.b, c.withB, c.inB}, {nil, nil, c.inNone}} {
				values := map[string]any{name: with.value}
				maps.Copy(values, with.more)
				client := configuredWith(t, values).provider.client
				pool, err := client.config.PoolConfig()
				if err != nil {
					t.Fatal(err)
				}
				if got := settings(client, pool, map[string]string{"a": certA, "b": certB})[name]; got != with.want {
					t.Errorf("with %v: %s, want %s", with.value, got, with.want)
				}
			}
			_, err := configuredWith(t, map[string]any{name: tftypes.UnknownValue}).provider.client.open(t.Context())
			if part, _, _ := strings.Cut(name, "."); !errors.Is(err, errUnknownConfig) || !strings.Contains(err.Error(), part) {
				t.Errorf("unknown: %v", err)
			}
		})
	}
}

// configuredWith is the provider's server with these arguments, such as
// clientcert.cert; it connects to nothing.
func configuredWith(t *testing.T, values map[string]any) *server {
	t.Helper()
	s := newServer()
	schemas, err := s.GetProviderSchema(t.Context(), &tfprotov6.GetProviderSchemaRequest{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := tfprotov6.NewDynamicValue(schemas.Provider.ValueType(), filled(schemas.Provider.ValueType(), "", values))
	if err != nil {
		t.Fatal(err)
	}
	validated, err := s.ValidateProviderConfig(t.Context(), &tfprotov6.ValidateProviderConfigRequest{Config: &config})
	if err != nil || len(validated.Diagnostics) > 0 {
		t.Fatal(err, validated.Diagnostics)
	}
	resp, err := s.ConfigureProvider(t.Context(), &tfprotov6.ConfigureProviderRequest{Config: &config})
	if err != nil || len(resp.Diagnostics) > 0 {
		t.Fatal(err, resp.Diagnostics)
	}
	return s
}

// filled is an object with the values given, and nulls; a block without values is
// null too.
func filled(typ tftypes.Type, prefix string, values map[string]any) tftypes.Value {
	object, ok := typ.(tftypes.Object)
	if !ok {
		return tftypes.NewValue(typ, values[strings.TrimSuffix(prefix, ".")])
	}
	given := prefix == ""
	for name, value := range values {
		given = given || strings.HasPrefix(name, prefix) && value != nil
	}
	if !given {
		return tftypes.NewValue(typ, nil)
	}
	attributes := map[string]tftypes.Value{}
	for name, t := range object.AttributeTypes {
		attributes[name] = filled(t, prefix+name+".", values)
	}
	return tftypes.NewValue(typ, attributes)
}

func commonName(certificates []tls.Certificate) string {
	if len(certificates) == 0 {
		return "none"
	}
	leaf, err := x509.ParseCertificate(certificates[0].Certificate[0])
	if err != nil {
		return err.Error()
	}
	return leaf.Subject.CommonName
}

// certificate is one that signs itself, and its key, in PEM.
func certificate(t *testing.T, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	bytes, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: bytes}))
}
