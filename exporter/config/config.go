// Package config reads the configuration file of the exporter.
package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// RealTimeURLVariable is the environment variable that holds real_time.url
// where the file does not say it.
const RealTimeURLVariable = "MATVIEW_REAL_TIME_URL"

// Defaults of real_time.
const (
	DefaultStatementTimeout = 5 * time.Second
	DefaultMaxConcurrent    = 4
)

// longestStatementTimeout is below the minute that the server has for an answer.
const longestStatementTimeout = 50 * time.Second

// Config is the configuration, checked as far as it can be without a database.
type Config struct {
	// Public opens /cache to everybody; each route says its own.
	Public   bool
	Routes   []Route
	RealTime RealTime
	Tokens   Tokens
	// CloudWatch is checked by whoever publishes.
	CloudWatch CloudWatch
}

// CloudWatch is what the file says of publishing to it.
type CloudWatch struct {
	Dimensions map[string]string // of every metric, beside ViewName

	at place
}

// Errorf is an error of one of the keys of cloudwatch, with its file and line.
func (c CloudWatch) Errorf(key, format string, args ...any) error {
	return c.at.errorf(key, format, args...)
}

// RealTime is how rows are read live.
type RealTime struct {
	URL              string // "": not offered
	StatementTimeout time.Duration
	MaxConcurrent    int

	at place
}

// Errorf is an error of one of the keys of real_time, with its file and line.
func (r RealTime) Errorf(key, format string, args ...any) error {
	return r.at.errorf(key, format, args...)
}

// place is a part of the file.
type place struct {
	document *document
	key      string
}

func (p place) errorf(key, format string, args ...any) error {
	if p.document == nil {
		return &Error{Key: p.key + "." + key, Err: fmt.Errorf(format, args...)}
	}
	return p.document.errorf(p.key+"."+key, format, args...)
}

// file is the YAML as people write it.
type file struct {
	Public bool `yaml:"public"`
	Routes []struct {
		Path   string `yaml:"path"`
		View   string `yaml:"view"`
		Public *bool  `yaml:"public"`
	} `yaml:"routes"`
	RealTime *struct {
		URL              string `yaml:"url"`
		StatementTimeout string `yaml:"statement_timeout"`
		MaxConcurrent    *int   `yaml:"max_concurrent"`
	} `yaml:"real_time"`
	Auth struct {
		BearerTokensFile string `yaml:"bearer_tokens_file"`
	} `yaml:"auth"`
	CloudWatch struct {
		Dimensions map[string]string `yaml:"dimensions"`
	} `yaml:"cloudwatch"`
}

// Load reads the configuration file called name, or the defaults if name is
// empty. getenv is os.Getenv but in tests. The error joins an [Error] for each
// thing that is wrong.
func Load(name string, getenv func(string) string) (*Config, error) {
	var written file
	document := &document{}
	if name != "" {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read the configuration file: %w", err)
		}
		if document, err = decode(name, data, &written); err != nil {
			return nil, err
		}
	}
	c := &Config{Public: written.Public, CloudWatch: CloudWatch{written.CloudWatch.Dimensions, place{document, "cloudwatch"}}}
	var problems []error
	for i, r := range written.Routes {
		route, err := newRoute(r.Path, r.View, place{document, fmt.Sprintf("routes[%d]", i)})
		problems = append(problems, err)
		route.Public = written.Public
		if r.Public != nil {
			route.Public = *r.Public
		}
		c.Routes = append(c.Routes, route)
	}
	problems = append(problems, collisions(c.Routes), c.readRealTime(written, document, getenv))
	if tokens := written.Auth.BearerTokensFile; tokens != "" {
		if !filepath.IsAbs(tokens) {
			tokens = filepath.Join(filepath.Dir(name), tokens)
		}
		var err error
		if c.Tokens, err = readTokens(tokens); err != nil {
			problems = append(problems, document.errorf("auth.bearer_tokens_file", "%w", err))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Config) readRealTime(written file, document *document, getenv func(string) string) error {
	c.RealTime = RealTime{
		URL:              getenv(RealTimeURLVariable),
		StatementTimeout: DefaultStatementTimeout,
		MaxConcurrent:    DefaultMaxConcurrent,
		at:               place{document, "real_time"},
	}
	r := &c.RealTime
	var problems []error
	if w := written.RealTime; w != nil {
		if w.URL != "" {
			r.URL = w.URL
		}
		if w.StatementTimeout != "" {
			timeout, err := time.ParseDuration(w.StatementTimeout)
			switch {
			case err != nil || timeout < time.Millisecond:
				problems = append(problems, r.Errorf("statement_timeout", "%q is not a duration of at least 1ms, as in 5s", w.StatementTimeout))
			case timeout > longestStatementTimeout:
				problems = append(problems, r.Errorf("statement_timeout", "must be at most %s: no request is answered after a minute", longestStatementTimeout))
			}
			r.StatementTimeout = timeout
		}
		if w.MaxConcurrent != nil {
			r.MaxConcurrent = *w.MaxConcurrent
			if r.MaxConcurrent < 1 || r.MaxConcurrent > 1000 {
				problems = append(problems, r.Errorf("max_concurrent", "must be from 1 to 1000"))
			}
		}
		if r.URL == "" {
			problems = append(problems, r.Errorf("url", "is required here, or %s in the environment", RealTimeURLVariable))
		}
	}
	if r.URL != "" {
		if _, err := (postgres.Config{URL: r.URL}).PoolConfig(); err != nil {
			problems = append(problems, r.Errorf("url", "%w", err))
		}
	}
	return errors.Join(problems...)
}
