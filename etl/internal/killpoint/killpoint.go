// Package killpoint names the steps at which a test ends the process, to prove that every step may
// be the last one.
//
// Nothing of it is in the program that ships: without the build tag killpoints Here is empty and
// inlined. With the tag, METERHOUSE_KILL=NAME:N makes the process kill itself (SIGKILL: no deferred
// call, no rollback, no farewell) at the N-th time that it comes to NAME, and NAME:N:TERM makes it
// send itself a SIGTERM there and go on. METERHOUSE_KILL_TRACE=FILE writes down the name of each step,
// one a line.
//
// "Committing" stands before the call that sends a COMMIT, "Committed" and the like behind it. That a
// process dies while a COMMIT is under way is tested from outside, by a proxy that sees it pass.
package killpoint

// Point is a step of extract, land, load or refresh.
type Point string

// The steps, in the order of a run. Some are met by every exchange with a vendor: the exchange of a
// token comes first in a run that needs one.
const (
	SlotClaimed      Point = "slot-claimed"      // a worker took a job
	LeaseTaken       Point = "lease-taken"       // the scope is ours
	RunStarted       Point = "run-started"       // the run's row is committed, nothing is asked yet
	TokenRead        Point = "token-read"        // the newest generation was read
	IntentCommitting Point = "intent-committing" // an exchange is about to be recorded
	IntentCommitted  Point = "intent-committed"
	BeforePost       Point = "before-post"      // the refresh token is about to be sent
	CallReserved     Point = "call-reserved"    // a paced call is recorded, not yet made
	RequestWritten   Point = "request-written"  // of any exchange: the vendor may have it whole
	FirstByte        Point = "first-byte"       // of any exchange: the answer begins
	BodyRead         Point = "body-read"        // of any exchange: the answer is whole, in memory only
	SpoolWritten     Point = "spool-written"    // the raw token answer is in a file that has no name yet
	SpoolRenamed     Point = "spool-renamed"    // and now it has
	TokenCommitting  Point = "token-committing" // the new pair is about to be stored
	TokenCommitted   Point = "token-committed"  // nobody has used it yet
	SpoolTidied      Point = "spool-tidied"     // older spool files are gone
	LandCommitting   Point = "land-committing"  // a body is about to be kept
	LandCommitted    Point = "land-committed"
	Prefetched       Point = "prefetched"      // the next window's answer is whole, this one's is being loaded
	LoadBegun        Point = "load-begun"      // the transaction holds the scope and the fence
	Copying          Point = "copying"         // some of the rows of a COPY are sent
	Parsed           Point = "parsed"          // the whole answer was read, what was ready is in the transaction
	FactsWritten     Point = "facts-written"   // all facts are, the run is not closed yet
	LoadCommitting   Point = "load-committing" // facts, coverage, watermark and run are
	LoadCommitted    Point = "load-committed"
	LeaseReleased    Point = "lease-released"
)

// Points are all of them.
var Points = []Point{
	SlotClaimed, LeaseTaken, RunStarted, TokenRead, IntentCommitting, IntentCommitted, BeforePost, CallReserved,
	RequestWritten, FirstByte, BodyRead, SpoolWritten, SpoolRenamed, TokenCommitting, TokenCommitted, SpoolTidied,
	LandCommitting, LandCommitted, Prefetched, LoadBegun, Copying, Parsed, FactsWritten, LoadCommitting, LoadCommitted, LeaseReleased,
}
