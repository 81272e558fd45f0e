// Package etl holds the words of the domain and the path of a record: plan, lease, extract, land,
// transform, load.
//
// It knows no vendor and no database. A vendor is a [Source]: it is asked for one [Request] and
// turns the answer into facts. The warehouse is a [Warehouse]: it leases scopes, keeps what a
// vendor said and loads facts, watermark, coverage and run record in one transaction.
// [Pipeline.Run] is where they meet.
//
// Times are UTC instants unless a name says local. Windows are half-open and made of whole UTC
// days. Quantities are [Decimal]: exact from the vendor's text to the database's numeric; no
// floating point number touches them. Unknown is nil, never zero.
package etl
