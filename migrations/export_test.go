package migrations

import (
	"context"
	"io/fs"

	"github.com/jackc/pgx/v5"
)

// Files are the files of this release.
var Files fs.FS = embedded

// ApplyFiles is [Apply] of the release that has files.
func ApplyFiles(ctx context.Context, conn *pgx.Conn, schema string, files fs.FS) error {
	s, err := load(files)
	if err != nil {
		return err
	}
	return exclusively(ctx, conn, func(tx pgx.Tx) error { return s.apply(ctx, tx, schema, tracking{}) })
}
