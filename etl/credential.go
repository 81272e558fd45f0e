package etl

import (
	"errors"
	"time"
)

// SealedCredential is one generation of an account's token chain. Tokens are sealed before they
// come here: a warehouse stores and returns ciphertext and never sees a token.
type SealedCredential struct {
	Account         string
	Generation      int64 // 1 is the first; append-only
	Refresh         []byte
	Access          []byte    // nil: none
	AccessExpiresAt time.Time // real clock; zero when Access is nil
	ObtainedAt      time.Time // real clock
	Source          string    // "seed": a person logged in; "refresh": exchanged by us; "rekey": sealed anew
	SeededAt        time.Time // real clock; when a person last logged in for this chain
	Fingerprint     string    // keyed hash of the refresh token, to compare without opening
	KeyID           string    // which key sealed it
}

// CredentialAttempt is one intended exchange of a refresh token, recorded before it is sent.
type CredentialAttempt struct {
	ID             int64
	Account        string
	FromGeneration int64
	Owner          string // process and exchange: no two attempts have the same
	Spool          string // places that may hold the raw answer, parted by blanks; empty: none
	StartedAt      time.Time
	DeadlineAt     time.Time
	State          AttemptState
	Detail         string // why it ended as it did; never a token
	// Probes counts the attempts from the same generation that were begun in the last 24 hours and
	// not abandoned.
	Probes int
	// FailedOverAt is when attempts of the account first met the history of the database that this
	// one was recorded in, if they knew another before; zero when they did not. The store sets it.
	FailedOverAt time.Time
}

// AttemptKey names an attempt. The number alone may come again: a failover or a restore forgets the
// newest ones. The zero key is none.
type AttemptKey struct {
	ID    int64
	Owner string
}

// Key names the attempt.
func (a CredentialAttempt) Key() AttemptKey { return AttemptKey{a.ID, a.Owner} }

// AttemptState is where an attempt stands. At most one per account is open or ambiguous.
type AttemptState string

// States of an attempt.
const (
	AttemptOpen       AttemptState = "open"
	AttemptAmbiguous  AttemptState = "ambiguous"  // sent, but the answer was lost or unreadable
	AttemptDone       AttemptState = "done"       // the new pair is stored
	AttemptRejected   AttemptState = "rejected"   // the vendor refused: the chain is dead
	AttemptSuperseded AttemptState = "superseded" // a later attempt from the same generation took over
	AttemptAbandoned  AttemptState = "abandoned"  // ended without sending the refresh token of its generation
)

// ErrAttemptOpen says that another exchange for the account is open or ambiguous.
var ErrAttemptOpen = errors.New("another token exchange is open")

// ErrNoCredential says that no generation is stored for the account.
var ErrNoCredential = errors.New("no credential stored")
