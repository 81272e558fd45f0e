package warehouse

import (
	"github.com/jackc/pgx/v5/pgtype"
)

// rawNumeric hands bytes in numeric's binary form to a statement as they are.
type rawNumeric []byte

func (r rawNumeric) NumericValue() (pgtype.Numeric, error) {
	var n pgtype.Numeric
	err := pgtype.NewMap().Scan(pgtype.NumericOID, pgtype.BinaryFormatCode, r, &n)
	return n, err
}
