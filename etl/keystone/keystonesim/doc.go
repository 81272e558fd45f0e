// Package keystonesim is a faithful, seeded and stateful fake of the NetApp
// Keystone STaaS REST API (Digital Advisor), spoken over real HTTP. Tests, the
// demo and the simulate command ask it the way they would ask the vendor.
//
// # A second opinion
//
// The package imports nothing of ours. What it generates it can also total,
// and it totals with math/big: [Sim.Oracle] says what a warehouse must hold
// after loading, from the same generator values but through none of the code
// under test.
//
// # Pure answers, stateful tokens
//
// An answer depends on the seed, the business clock (Config.Now) and the
// request, and on nothing else. A sample is a function of seed, series and
// instant, so a window cut into pieces delivers the samples of the whole, and
// asking again delivers the same bytes while the clock stands. Figures hang on
// absolute time, not on Start: a simulator that was restarted with a later
// clock still tells the same history.
//
// What the clock moves: which samples exist (none is later than Now), when a
// month turns invoiced (five days after its end), when some days are restated
// (Config.Restate), and the order of levels (Config.Shuffle).
//
// Tokens are the only state, on a clock of their own (Config.TokenNow): an
// access token lives 1 hour and survives rotations; a refresh token lives 7
// days or until used, in an exchange that is declared as JSON; 90 days after
// the login every refresh is refused until someone logs in again
// ([Sim.Login]). Refresh tokens name their generation and are derived from the
// seed, so that a lenient simulator recognises tokens that an earlier process
// with the same seed handed out.
//
// # The vendor's habits
//
// The default is what the vendor's pages print, contradictions included:
//
//	                  customers  subscriptions-info  consumption-details  historical
//	top level         object     array of one        object               object
//	envelope          results    results             result               results
//	returned_records  number     number              string               number
//	TiB               -          number              string               number
//	contract dates    -          with milliseconds   without              without
//
// The customers call spreads its customers over several records and names one
// of them twice. Config.Clean irons all of that out. Both ends of a history
// window are inclusive to the second, a date alone as the upper end means that
// whole day, and the echo drops the time of day. A level without a sample in
// the window is left out, and so is a subscription without a level.
//
// # Faults
//
// [Sim.Inject] scripts what goes wrong: see [Fault] and, for the command line,
// [ParseFault]. Faults that close the connection panic with
// http.ErrAbortHandler, which net/http takes as the request to do just that;
// they need a real server, not a ResponseRecorder.
package keystonesim
