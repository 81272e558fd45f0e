// Package wolkvox is the vendor wolkvox: the billing APIs of one operation (a call centre).
//
// There is no history. A call answers for the running month (counters) or the moment (gauges), so
// a month that was not read before its end is lost, and every answer is landed before it is
// parsed. There are 27 products, each a call of its own; all scalars in an answer are text.
//
// A token is exclusive: the vendor allows two calls at a time, one reading of a product every five
// minutes, and counts all calls against a daily quota. So an [Account] makes strictly one after the
// other, without kept-alive connections, because net/http would repeat a call by itself when such a
// connection dies. A [Ledger] makes that true over all processes: a call is reserved in it before it is
// made, and what it remembers decides whether and when another may be; see guard.go. [Timetable] adds
// the readings that close a month to a schedule.
//
// The status 403 means four things (quota used up, too many at once, bad token, backup window) and
// only the message tells them apart; see refusal.go. The same refusals may come as status 200 with
// the code in the body: without data they mean the same to [Account.Extract], beside data they fail
// as vendor_error in [Account.Transform].
//
// The field date of a row is the date of the question, not of a period. It decides the day that a
// reading is filed under when it can be read, else the request does.
package wolkvox
