// Package metabase brings a Metabase to the state that is kept here as code: a connection to the warehouse
// that may only read, what the tables and columns mean, a collection of questions and three dashboards.
//
// It speaks Metabase's HTTP API as of v0.58, the release with long-term support, in the words of its public
// description and its source; the fake in metabasesim refuses what they do not allow. Queries are written in
// the form of that release (MBQL 5) and read in either form.
//
// Things are known by their names: the database and the collection [Name], and in the collection the cards
// and dashboards. [Provision] compares what is there with what is wanted and writes only what differs, so a
// second run writes nothing, and a run that broke off is completed by the next one. Of what is ours, ours
// wins: a description, a query or a size that a person changed is changed back, and said. What a person adds
// stays: other collections, cards under other names in ours, cards and filters on our dashboards, display
// names, settings of a chart that we do not set. What a person renames or moves away is theirs, and ours is
// made again. Nothing is ever deleted. That one run is at work at a time is the caller's to see to.
//
// Metabase reads comments once, when it first meets a column, and never again: that is why descriptions are
// pushed. It also samples every column of a database that it may analyse. Some views of the mart compute
// whole months when they are not filtered, so the database is added without analysis, and what analysis
// would guess is said by rule (see semantics). A reading of the schema that is asked for analyses all the same:
// it is asked for only when there is a column that Metabase does not know.
package metabase
