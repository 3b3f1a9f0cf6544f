package matview

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/matview/terraform-provider-matview/internal/postgres"
)

// grant is one privilege that one role granted to another.
type grant struct {
	Column    string // "" for the whole view
	Privilege string
	Grantor   string
	Grantee   string // "" for PUBLIC
	Grantable bool
}

// readGrants reads the privileges on a view, including those of its owner, which
// can be revoked too.
func readGrants(ctx context.Context, q postgres.Querier, view uint32) ([]grant, error) {
	const sql = `
WITH acl AS (
    SELECT '' AS attname, a.*
    FROM pg_class AS c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS a WHERE c.oid = $1
    UNION ALL
    SELECT c.attname::text, a.* FROM pg_attribute AS c, aclexplode(c.attacl) AS a WHERE c.attrelid = $1 AND NOT c.attisdropped
)
SELECT attname, privilege_type, pg_get_userbyid(grantor)::text,
       CASE grantee WHEN 0 THEN '' ELSE pg_get_userbyid(grantee)::text END, is_grantable
FROM acl ORDER BY 1, 2, 3, 4`
	return collect(ctx, q, pgx.RowToStructByPos[grant], sql, view)
}

// setGrants makes the privileges on a new view exactly those in want, except for
// those on columns that it does not have. So far, only its owner can have granted any.
func setGrants(ctx context.Context, tx pgx.Tx, view *View, want []grant) error {
	columns, err := collect(ctx, tx, pgx.RowTo[string], "SELECT attname::text FROM pg_attribute WHERE attrelid = $1 AND attnum > 0", view.OID)
	if err != nil {
		return fmt.Errorf("read the columns of %s: %w", view.Name, err)
	}
	want = slices.DeleteFunc(slices.Clone(want), func(g grant) bool { return g.Column != "" && !slices.Contains(columns, g.Column) })
	have, err := readGrants(ctx, tx, view.OID)
	if err != nil || slices.Equal(have, want) {
		return err
	}
	err = asOwner(ctx, tx, view.Owner, func() error {
		for _, g := range have {
			// Default privileges may have granted more than the old view had.
			if _, err := tx.Exec(ctx, "REVOKE ALL ON "+view.Name.SQL()+" FROM "+g.grantee()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	// A role with a grant option must get it before it grants.
	for pending := want; len(pending) > 0; {
		var later []grant
		for _, g := range pending {
			granted := g.Grantor == view.Owner || slices.ContainsFunc(want, func(h grant) bool {
				return h.Grantable && h.Grantee == g.Grantor && h.Privilege == g.Privilege && (h.Column == "" || h.Column == g.Column) &&
					!slices.Contains(pending, h)
			})
			if !granted {
				later = append(later, g)
				continue
			}
			if err := g.exec(ctx, tx, view.Name); err != nil {
				return err
			}
		}
		if len(later) == len(pending) {
			return fmt.Errorf("role %q granted %s to %s, but has no grant option", later[0].Grantor, later[0].Privilege, later[0].grantee())
		}
		pending = later
	}
	if have, err = readGrants(ctx, tx, view.OID); err != nil {
		return err
	}
	if !slices.Equal(have, want) {
		return errors.New("the privileges would not be the same as before")
	}
	return nil
}

func (g grant) grantee() string {
	if g.Grantee == "" {
		return "PUBLIC"
	}
	return postgres.QuoteIdent(g.Grantee)
}

func (g grant) exec(ctx context.Context, tx pgx.Tx, view Name) error {
	var b strings.Builder
	b.WriteString("GRANT " + g.Privilege)
	if g.Column != "" {
		b.WriteString(" (" + postgres.QuoteIdent(g.Column) + ")")
	}
	b.WriteString(" ON " + view.SQL() + " TO " + g.grantee())
	if g.Grantable {
		b.WriteString(" WITH GRANT OPTION")
	}
	return asOwner(ctx, tx, g.Grantor, func() error {
		_, err := tx.Exec(ctx, b.String())
		return err
	})
}
