// Package examples carries the made-up files that docs/month-end.md works with. They fit what the demo loads; the
// demo imports the rate card, so that its statement has amounts.
package examples

import _ "embed"

// Rates is rates.csv as `meterhouse rates import` reads it.
//
//go:embed rates.csv
var Rates []byte
