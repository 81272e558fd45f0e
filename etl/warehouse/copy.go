package warehouse

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"meterhouse/etl"
	"meterhouse/etl/internal/killpoint"
)

// copyBuffer collects rows in Postgres's binary COPY format, written directly from typed values:
// no row ever becomes a slice of any, and decimals keep every digit.
type copyBuffer struct {
	table   string
	columns []string
	buf     []byte
	rows    int
	scratch []byte
	spare   []byte // room of the rows that were sent last
}

func newCopyBuffer(table string, columns ...string) *copyBuffer {
	return &copyBuffer{table: table, columns: columns}
}

// The binary format: 11 bytes of signature, flags, header extension; after the rows a field count of -1.
var copyHeader = append([]byte("PGCOPY\n\xff\r\n\x00"), 0, 0, 0, 0, 0, 0, 0, 0)

const postgresEpoch = 946684800 // 2000-01-01T00:00:00Z in Unix seconds

func (b *copyBuffer) startRow() {
	b.buf = binary.BigEndian.AppendUint16(b.buf, uint16(len(b.columns)))
	b.rows++
}

func (b *copyBuffer) null() { b.buf = append(b.buf, 0xff, 0xff, 0xff, 0xff) }

func (b *copyBuffer) int64(v int64) {
	b.buf = append(b.buf, 0, 0, 0, 8)
	b.buf = binary.BigEndian.AppendUint64(b.buf, uint64(v))
}

func (b *copyBuffer) int32(v int32) {
	b.buf = append(b.buf, 0, 0, 0, 4)
	b.buf = binary.BigEndian.AppendUint32(b.buf, uint32(v))
}

// micros writes a timestamptz from microseconds since 1970.
func (b *copyBuffer) micros(v int64) { b.int64(v - postgresEpoch*1_000_000) }

func (b *copyBuffer) time(t time.Time) { b.micros(t.UnixMicro()) }

func (b *copyBuffer) day(d etl.Day) { b.int32(int32(d) - postgresEpoch/(24*60*60)) }

func (b *copyBuffer) bytes(v []byte) {
	if v == nil {
		b.null()
		return
	}
	b.buf = binary.BigEndian.AppendUint32(b.buf, uint32(len(v)))
	b.buf = append(b.buf, v...)
}

func (b *copyBuffer) nullBool(v etl.NullBool) {
	switch v {
	case etl.True:
		b.buf = append(b.buf, 0, 0, 0, 1, 1)
	case etl.False:
		b.buf = append(b.buf, 0, 0, 0, 1, 0)
	default:
		b.null()
	}
}

func (b *copyBuffer) nullDecimal(d etl.NullDecimal) {
	if !d.Known {
		b.null()
		return
	}
	b.decimal(d.Decimal)
}

// decimal writes Postgres's numeric: base-10000 digits with a weight, a sign and a display scale.
func (b *copyBuffer) decimal(d etl.Decimal) {
	start := len(b.buf)
	b.buf = append(b.buf, 0, 0, 0, 0)
	if coef, scale, ok := d.Coefficient(); ok {
		b.buf = appendShortNumeric(b.buf, coef, int(scale))
	} else {
		b.scratch = d.AppendText(b.scratch[:0])
		b.buf = appendNumeric(b.buf, b.scratch)
	}
	binary.BigEndian.PutUint32(b.buf[start:], uint32(len(b.buf)-start-4))
}

// appendShortNumeric is appendNumeric for coefficient × 10^-scale.
func appendShortNumeric(dst []byte, coef int64, scale int) []byte {
	sign, left := uint16(0), uint64(coef)
	if coef < 0 {
		sign, left = 0x4000, -left
	}
	// The last group ends at a multiple of four places: what the scale lacks is filled with zeros.
	powers := [...]uint64{1, 10, 100, 1000, 10_000}
	fill := -scale & 3
	var groups [6]uint16 // the last one first
	groups[0] = uint16(left % powers[4-fill] * powers[fill])
	n := 0
	for left /= powers[4-fill]; left > 0; left /= 10_000 {
		n++
		groups[n] = uint16(left % 10_000)
	}
	zeros := 0
	for zeros <= n && groups[zeros] == 0 { // the least groups are not stored when they are nothing
		zeros++
	}
	weight := n - (scale+3)/4
	if zeros > n {
		weight = 0
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(n+1-zeros))
	dst = binary.BigEndian.AppendUint16(dst, uint16(int16(weight)))
	dst = binary.BigEndian.AppendUint16(dst, sign)
	dst = binary.BigEndian.AppendUint16(dst, uint16(scale))
	for ; n >= zeros; n-- {
		dst = binary.BigEndian.AppendUint16(dst, groups[n])
	}
	return dst
}

// appendNumeric writes the plain text of a number of any length.
func appendNumeric(dst, text []byte) []byte {
	sign := uint16(0)
	if text[0] == '-' {
		sign, text = 0x4000, text[1:]
	}
	whole, fraction := text, []byte(nil)
	if point := bytes.IndexByte(text, '.'); point >= 0 {
		whole, fraction = text[:point], text[point+1:]
	}
	head := len(dst)
	dst = append(dst, 0, 0, 0, 0, 0, 0, 0, 0)
	weight := (len(whole)+3)/4 - 1
	ndigits, significant := 0, 0
	group := func(value int) {
		if value == 0 && ndigits == 0 {
			weight-- // leading zero groups are not stored
			return
		}
		dst = binary.BigEndian.AppendUint16(dst, uint16(value))
		ndigits++
		if value != 0 {
			significant = ndigits
		}
	}
	for i, take := 0, (len(whole)-1)%4+1; i < len(whole); i, take = i+take, 4 {
		group(atoi(whole[i:i+take], take))
	}
	for i := 0; i < len(fraction); i += 4 {
		group(atoi(fraction[i:min(i+4, len(fraction))], 4))
	}
	dst = dst[:head+8+2*significant] // nor are trailing ones
	if significant == 0 {
		weight, sign = 0, 0
	}
	binary.BigEndian.PutUint16(dst[head:], uint16(significant))
	binary.BigEndian.PutUint16(dst[head+2:], uint16(int16(weight)))
	binary.BigEndian.PutUint16(dst[head+4:], sign)
	binary.BigEndian.PutUint16(dst[head+6:], uint16(len(fraction)))
	return dst
}

// atoi reads up to width digits and scales as if it had been padded with zeros on the right.
func atoi(digits []byte, width int) int {
	n := 0
	for i := range width {
		n *= 10
		if i < len(digits) {
			n += int(digits[i] - '0')
		}
	}
	return n
}

// send sends the rows collected so far with one COPY and forgets them. It does not wait for the end of
// the COPY, only for that of the one before it: the next rows are decoded meanwhile.
func (b *copyBuffer) send(ctx context.Context, tx *loadTx) error {
	if b.rows == 0 {
		return nil
	}
	full, rows := append(b.buf, 0xff, 0xff), b.rows
	if err := tx.background(func(conn *pgconn.PgConn) error {
		tag, err := conn.CopyFrom(ctx, newHeadReader(copyHeader, full), b.sql())
		if err != nil {
			return fmt.Errorf("copy into %s: %w", b.table, err)
		}
		if tag.RowsAffected() != int64(rows) {
			return fmt.Errorf("copy into %s: got %d rows stored, want %d", b.table, tag.RowsAffected(), rows)
		}
		return nil
	}); err != nil {
		return err
	}
	// What the spare room held was stored when this COPY began.
	b.buf, b.spare, b.rows = b.spare[:0], full, 0
	return nil
}

func (b *copyBuffer) sql() string {
	return "copy " + b.table + " (" + strings.Join(b.columns, ", ") + ") from stdin (format binary)"
}

func newHeadReader(head, body []byte) *headReader {
	return &headReader{parts: [2][]byte{head, body}}
}

// headReader reads two slices one after the other without joining them.
type headReader struct{ parts [2][]byte }

func (r *headReader) Read(p []byte) (int, error) {
	if len(r.parts[0]) == 0 { // whoever asks again has sent what it got
		killpoint.Here(killpoint.Copying)
	}
	for i := range r.parts {
		if len(r.parts[i]) > 0 {
			n := copy(p, r.parts[i])
			r.parts[i] = r.parts[i][n:]
			return n, nil
		}
	}
	return 0, io.EOF
}
