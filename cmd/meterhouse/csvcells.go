package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"meterhouse/etl"
	"meterhouse/etl/billing"
)

// source is where a row stands, as it is kept.
func (f *csvFile) source(row csvRow) string {
	return fmt.Sprintf("%s:%d", filepath.Base(f.name), row.line)
}

// choice demands one of a few words.
func (f *csvFile) choice(row csvRow, column string, words []string) bool {
	got := row.get(column)
	if slices.Contains(words, got) {
		return true
	}
	f.bad(row, column, "%q%s: want %s", got, nearest(got, words), oneOf(words))
	return false
}

// boolean reads true or false; empty is false. A spreadsheet writes them in capitals.
func (f *csvFile) boolean(row csvRow, column string) bool {
	switch strings.ToLower(row.get(column)) {
	case "", "false":
	case "true":
		return true
	default:
		f.bad(row, column, "%q: want true or false", row.get(column))
	}
	return false
}

// day reads a date near our time: a slip in a year would price a century.
func (f *csvFile) day(row csvRow, column string) etl.Day {
	d, err := etl.ParseDay(row.get(column))
	if year := d.Time().Year(); err != nil || year < 2000 || year > 2099 {
		f.bad(row, column, "%q: want a day as YYYY-MM-DD, of this century", row.get(column))
		return 0
	}
	return d
}

// decimal reads an exact number. Where semicolons part the fields the comma is decimal.
func (f *csvFile) decimal(row csvRow, column string) etl.Decimal {
	text := row.get(column)
	if f.semicolons {
		if thousands.MatchString(text) {
			f.bad(row, column, "%q: a decimal, or thousands? want it without a point, or with fewer or more digits behind it", text)
			return etl.Decimal{}
		}
		text = strings.Replace(text, ",", ".", 1)
	}
	d, err := etl.ParseDecimal([]byte(text))
	switch {
	case errors.Is(err, etl.ErrNumberRange):
		f.bad(row, column, "%q: want at most 40 digits", row.get(column))
	case err != nil:
		f.bad(row, column, "%q: want digits with a decimal point and no other separator", row.get(column))
	}
	return d
}

// conflicts makes an error about stored rows one of the file.
func (f *csvFile) conflicts(err error) error {
	var conflicts billing.ConflictError
	if !errors.As(err, &conflicts) {
		return err
	}
	for _, c := range conflicts {
		f.badLine(f.rows[c.Row].line, errors.New(c.Reason))
	}
	return f.err()
}
