package etl

import "time"

// Call is one call to a vendor that allows one at a time and counts them, as a ledger keeps it. Times
// are of the ledger's clock.
type Call struct {
	ID         int64
	Credential string // keyed hash of the token
	Account    string
	Product    string
	StartedAt  time.Time
	EndedAt    time.Time // zero while it is under way
	Outcome    string    // CallOK, CallLost, CallUnsent, or what the vendor answered by the name of its reason
	RetryAt    time.Time // before which the vendor does not want to be asked; zero: it did not say
}

// Outcomes that no vendor gives, beside CallOK.
const (
	CallLost   = "lost"   // its process died, or could not say how it ended
	CallUnsent = "unsent" // no connection stood: the vendor saw nothing of it, so it counts for nothing
)

// Quota is what a vendor said about the calls of a credential. A count that it did not give is -1.
type Quota struct {
	Limit       int64 // calls a day
	UsedByToken int64 // today, by this token
	UsedByAll   int64 // today, by all tokens of the operation
	Left        int64
	Elsewhere   int64     // of those, what the ledger knows nothing of
	ToldAt      time.Time // by the ledger's clock; zero: it never said anything
}

// CallLog is what a ledger knows of one credential at one moment. Calls that were not sent are not in it.
// When a vendor saw a call only the vendor knows: at the latest when it ended, so that is when it counts.
type CallLog struct {
	Now    time.Time            // by the ledger's clock
	Day    []time.Time          // calls of the last 24 hours, oldest first
	Last   map[string]time.Time // newest call of each product in the last 24 hours
	Recent []Call               // the newest calls, newest first: those of the last hours at least
	Quota  Quota                // the newest
}
