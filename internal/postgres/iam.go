package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/feature/rds/auth"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// IAM is how to log in to Amazon RDS and Aurora with a token in place of a
// password. What is empty comes from the environment and the shared
// configuration of AWS.
type IAM struct {
	Region  string
	Profile string
	// RoleARN is a role to assume first.
	RoleARN string
}

// tokens signs tokens for logins.
type tokens struct {
	region      string
	credentials aws.CredentialsProvider // kept, and renewed in time, by a cache of the SDK
}

// signer finds region and credentials, without asking anybody on the network:
// credentials are first taken when a token is signed.
func (i IAM) signer(ctx context.Context) (*tokens, error) {
	var options []func(*awsconfig.LoadOptions) error
	if i.Region != "" {
		options = append(options, awsconfig.WithRegion(i.Region))
	}
	if i.Profile != "" {
		options = append(options, awsconfig.WithSharedConfigProfile(i.Profile))
	}
	config, err := awsconfig.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("IAM authentication: read the configuration of AWS: %w", err)
	}
	if config.Region == "" {
		return nil, errors.New("IAM authentication: no region is known; set aws_rds_iam_region, or AWS_REGION")
	}
	t := &tokens{region: config.Region, credentials: config.Credentials}
	if i.RoleARN != "" {
		t.credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(config), i.RoleARN))
	}
	return t, nil
}

// lazySigner looks only once somebody connects: to validate a configuration no
// AWS is needed. A failure is not kept.
func (i IAM) lazySigner() func(ctx context.Context) (*tokens, error) {
	var mu sync.Mutex
	var found *tokens
	return func(ctx context.Context) (_ *tokens, err error) {
		mu.Lock()
		defer mu.Unlock()
		if found == nil {
			found, err = i.signer(ctx)
		}
		return found, err
	}
}

// authenticate makes each new connection log in with a token of its own: one is
// good for 15 minutes, a pool lives longer.
func (i IAM) authenticate(config *pgxpool.Config) error {
	c := config.ConnConfig
	if err := requireTLS(&c.Config); err != nil {
		return err
	}
	for _, other := range c.Fallbacks {
		if other.Host != c.Host || other.Port != c.Port {
			return fmt.Errorf("IAM authentication: a token is for one server, and the connection settings name several (%s, %s); name one, such as the cluster's writer endpoint",
				c.Host, other.Host)
		}
	}
	if strings.HasPrefix(c.Host, "/") {
		return fmt.Errorf("IAM authentication: a token is for a host of Amazon RDS, and %s is a socket of this machine", c.Host)
	}
	signer := i.lazySigner()
	config.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error {
		signer, err := signer(ctx)
		if err != nil {
			return &tokenError{&c.Config, err}
		}
		endpoint := net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))
		c.Password, err = auth.BuildAuthToken(ctx, endpoint, signer.region, c.User, signer.credentials)
		if err != nil {
			return &tokenError{&c.Config, fmt.Errorf("IAM authentication: no credentials of AWS to sign a token with: %w", err)}
		}
		return nil
	}
	return nil
}

// tokenError says that a login got no token.
type tokenError struct {
	config *pgconn.Config
	err    error
}

func (e *tokenError) Error() string { return e.err.Error() }
func (e *tokenError) Unwrap() error { return e.err }

// requireTLS drops the attempts without TLS that sslmode prefer, the default,
// falls back to: who sees a token can use it. RDS asks for TLS there anyway.
func requireTLS(c *pgconn.Config) error {
	if c.TLSConfig == nil {
		return errors.New("IAM authentication: a token must not be sent without TLS; set sslmode to verify-full with sslrootcert, or to require")
	}
	encrypted := c.Fallbacks[:0]
	for _, f := range c.Fallbacks {
		if f.TLSConfig != nil {
			encrypted = append(encrypted, f)
		}
	}
	c.Fallbacks = encrypted
	return nil
}
