// Package warehouse keeps facts, dimensions, restatements, coverage, runs, quarantine and
// credentials in Postgres.
//
// A load is one READ COMMITTED transaction. It takes the lock of the scope first, checks that the
// lease's fence is still its own, and only then reads the digests of the window: two writers that
// read before locking would collide. It writes what is new or different, keeps superseded versions
// in the ledger, moves watermark and coverage and closes the run, all or nothing. A COMMIT whose
// reply was lost is read back by run id; whether an error is safe to repeat is never guessed.
//
// Re-reading is cheap because of day digests: the measures of one level instance and UTC day are
// hashed in canonical order and spelling, and a day with an equal digest costs the database nothing.
//
// Newer means fetched later. An older observation that arrives late is put where it belongs in the
// ledger, so that the order of loading does not show: see versions.go.
package warehouse
