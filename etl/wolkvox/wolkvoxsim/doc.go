// Package wolkvoxsim is a made-up wolkvox server: the billing APIs of one
// operation over real HTTP, seeded and stateful, for tests, the demo and
// `meterhouse simulate`. It imports nothing of ours, so that it stays a second
// opinion on the vendor's contract and not an echo of our client's.
//
// # What it serves
//
//	GET /api/v2/billing.php?api=NAME              27 readings, see catalogue
//	GET /api/v2/information.php?api=token_info    the quota and what is used
//
// with the header wolkvox-token. The vendor keeps no history and takes no
// dates: an answer is the month so far (counters) or the moment (gauges). So
// the answer is a pure function of (seed, clock, request), never of how often
// it was asked: a counter is the sum of the local days of the month so far,
// each day's amount thrown from the seed, plus the part of today that has
// passed. It starts at "0" at local midnight of the 1st and never falls until
// the month ends. Gauges hold their level for some days and then step.
//
// What the readings look like is the vendor's habit: everything inside data is
// text; code is the number 200 but the text "200" from the last two APIs;
// dates come with a time from even APIs and without from odd ones; minutes come
// whole, with two decimals, or as H:MM:SS with hours beyond 24. Times are whole
// multiples of three seconds, so that every duration is an exact decimal of
// minutes and Oracle needs no rounding. Undisturbed data passes every
// acceptance rule without a warning.
//
// # What it remembers
//
// The quota and the requests in flight, as the vendor does. A call with a good
// token costs 1 whatever comes of it, token_info too; a call refused for its
// token or for lack of quota costs nothing. The quota starts afresh at local
// midnight of the clock. Spend uses some of it up, like another token of the
// operation would. More than two calls at once on the token are refused. Gates
// are passed in this order: token, quota, concurrency, parameters.
//
// The log (Requests) stamps a call with the business clock; the answer was made
// for exactly its Start, so Oracle(Start) is what was sent. A call leaves the
// log's flight before its last byte is sent: a client that works strictly one
// after the other sees MaxConcurrent 1, unless it gave up on a slow answer and
// asked again before the server could notice.
//
// # Faults
//
// Inject makes answers go wrong by script: skip some matching requests, spoil
// the next count of them (0 = for ever), then behave. Faults are tried in the
// order they came; the first live one that matches takes the request, and later
// ones do not see it. Only requests that passed the first three gates count.
// For the command line ParseFault reads one fault from a line of words:
//
//	KIND [api=NAME] [skip=N] [count=N] [delay=DURATION] [skew=DURATION]
//	     [status=CODE] [header=NAME:VALUE]... [body=TEXT up to the end of the line]
//
//	slow delay=90s api=vision count=1
//	reply status=503 count=3 body=<html>bad gateway</html>
//	maintenance skip=5 count=2
//	skewed skew=-3h
//	items_dash api=rec_screen
//
// Kinds are listed at type Kind. Delay is real time, since timeouts are, and so
// is what Skew is counted from; they, Status and Header go with any kind. The fault `close` on a kept-alive
// connection makes Go's own transport repeat the GET silently: count requests
// here, not in the client.
package wolkvoxsim
