package postgres

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// writePEM writes certificates and keys that are given as PEM texts to files, which
// pgx reads, and replaces the texts by the files' names. cleanUp removes the files,
// also after an error.
func (c *Config) writePEM() (cleanUp func(), err error) {
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
		file, err := os.CreateTemp("", "matview-*.pem") // only this user may read it
		if err == nil {
			written = append(written, file.Name())
			_, err = file.WriteString(*text)
			err = errors.Join(err, file.Close())
		}
		if err != nil {
			return cleanUp, fmt.Errorf("connection settings of PostgreSQL: write a certificate to a temporary file: %w", err)
		}
		*text = file.Name()
	}
	return cleanUp, nil
}
