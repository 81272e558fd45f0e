// Package queries carries the analyst's questions as SQL, one file each.
package queries

import "embed"

// FS holds the .sql files.
//
//go:embed *.sql
var FS embed.FS
