package postgres

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// writeTexts puts certificates and keys that are given as PEM texts into files,
// which is what pgx reads, and their names in place of the texts. cleanUp
// removes them.
func (c *Config) writeTexts() (cleanUp func(), err error) {
	var written []string
	cleanUp = func() {
		for _, name := range written {
			_ = os.Remove(name)
		}
	}
	for _, text := range []*string{&c.SSLRootCert, &c.SSLCert, &c.SSLKey} {
		if !strings.Contains(*text, "-----BEGIN ") {
			continue
		}
		name, err := writeSecret(*text)
		if name != "" {
			written = append(written, name)
		}
		if err != nil {
			cleanUp()
			return nil, fmt.Errorf("connection settings of PostgreSQL: keep a certificate for the time of reading it: %w", err)
		}
		*text = name
	}
	return cleanUp, nil
}

// writeSecret writes a file that only this user may read.
func writeSecret(text string) (name string, err error) {
	file, err := os.CreateTemp("", "matview-*.pem")
	if err != nil {
		return "", err
	}
	_, err = file.WriteString(text)
	return file.Name(), errors.Join(err, file.Close())
}
