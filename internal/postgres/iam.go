package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
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

// IAM says how to log in to Amazon RDS and Aurora with a token instead of a password.
// Empty fields are taken from the environment and the shared configuration of AWS.
type IAM struct {
	Region  string
	Profile string
	// RoleARN is a role to assume first.
	RoleARN string
	// Endpoint is the HOST:PORT of the database to sign for, if the connection goes
	// through a tunnel or a proxy; "" is the host and port that are connected to.
	Endpoint string
}

// load finds the region and the credentials without any network access: the first
// signed token retrieves credentials, and a cache of the SDK renews them in time.
func (i IAM) load(ctx context.Context) (*aws.Config, error) {
	// An empty region or profile leaves the default.
	config, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithRegion(i.Region), awsconfig.WithSharedConfigProfile(i.Profile))
	if err != nil {
		return nil, fmt.Errorf("IAM authentication: read the configuration of AWS: %w", err)
	}
	if config.Region == "" {
		return nil, errors.New("IAM authentication: no region is configured; set aws_rds_iam_region, or AWS_REGION")
	}
	if i.RoleARN != "" {
		config.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(config), i.RoleARN))
	}
	return &config, nil
}

// loadOnce returns a function that loads when it is first called, so that validating
// a configuration needs no AWS. It does not keep an error.
func (i IAM) loadOnce() func(ctx context.Context) (*aws.Config, error) {
	var mu sync.Mutex
	var loaded *aws.Config
	return func(ctx context.Context) (_ *aws.Config, err error) {
		mu.Lock()
		defer mu.Unlock()
		if loaded == nil {
			loaded, err = i.load(ctx)
		}
		return loaded, err
	}
}

// authenticate makes each new connection log in with a new token: a token is valid for
// 15 minutes, and a pool lives longer.
func (i IAM) authenticate(config *pgxpool.Config) error {
	c := config.ConnConfig
	if err := requireTLS(&c.Config); err != nil {
		return err
	}
	for _, other := range c.Fallbacks {
		if other.Host != c.Host || other.Port != c.Port {
			return fmt.Errorf("IAM authentication: a token is valid for one server, but the connection settings name several (%s, %s); name one, such as the cluster's writer endpoint",
				c.Host, other.Host)
		}
	}
	if strings.HasPrefix(c.Host, "/") {
		return fmt.Errorf("IAM authentication: a token is valid for a host of Amazon RDS, but %s is a socket of this machine", c.Host)
	}
	if _, _, err := net.SplitHostPort(i.Endpoint); i.Endpoint != "" && err != nil {
		return fmt.Errorf("IAM authentication: aws_rds_iam_endpoint must be HOST:PORT, but %q is not: %w", i.Endpoint, err)
	}
	load := i.loadOnce()
	config.BeforeConnect = func(ctx context.Context, c *pgx.ConnConfig) error {
		config, err := load(ctx)
		if err != nil {
			return &tokenError{&c.Config, err}
		}
		endpoint := cmp.Or(i.Endpoint, net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))))
		c.Password, err = auth.BuildAuthToken(ctx, endpoint, config.Region, c.User, config.Credentials)
		if err != nil {
			return &tokenError{&c.Config, fmt.Errorf("IAM authentication: retrieve AWS credentials to sign a token: %w", err)}
		}
		return nil
	}
	return nil
}

// tokenError says that no token could be signed for a login.
type tokenError struct {
	config *pgconn.Config
	err    error
}

func (e *tokenError) Error() string { return e.err.Error() }
func (e *tokenError) Unwrap() error { return e.err }

// requireTLS removes the attempts without TLS to which sslmode prefer, the default,
// falls back: whoever reads a token can use it. RDS requires TLS for it anyway.
func requireTLS(c *pgconn.Config) error {
	if c.TLSConfig == nil {
		return errors.New("IAM authentication: a token must not be sent without TLS; set sslmode to verify-full with sslrootcert, or to require")
	}
	c.Fallbacks = slices.DeleteFunc(c.Fallbacks, func(f *pgconn.FallbackConfig) bool { return f.TLSConfig == nil })
	return nil
}
