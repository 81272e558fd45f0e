// Package keystone reads NetApp Keystone through the Digital Advisor REST API: which customers a
// login may see, what they have committed to, what they consume now, and what they consumed.
//
// An [Account] is one login. It implements etl.Source: Extract makes one polite exchange, Transform
// turns the answer into facts.
//
// # What the vendor says
//
// The four answers share one shape and disagree in every detail: result or results, alone or in an
// array of one, figures as numbers or as text, dates with and without milliseconds, one member with
// a capital letter. Nothing is said about paging, about the order of samples, or about which end of
// a window is included. So one tolerant reader takes all documented spellings and refuses the rest
// (transform.go), and the rules of acceptance decide row by row what is a fact, what is set aside,
// and what is only remarked upon (record.go, history.go, customers.go). Their names are in the
// failure model, section 3.2; the tests name its cases.
//
// Answers are streamed. Members may come in any order, so one subscription record is collected
// before it is handed on, and no more than one: except when a number comes twice in one answer,
// which is found when the second arrives. Then the sink forgets everything and the answer is read
// again with those records held back to the end.
//
// A window is asked for from its first midnight to the midnight that ends it. If the vendor
// includes that end, or the whole day it names, the surplus rows are ignored: they belong to the
// next window.
//
// # The token
//
// The vendor's refresh token works once. The exchange gives a new one and an access token for an
// hour; whoever loses the answer has lost the login, and a person must go to the portal. So tokens
// are kept by a protocol (custody.go, failure model section 4) over a [TokenStore]:
//
//   - An exchange happens only when a call needs one: an access token serves all processes until
//     ten minutes before its end.
//   - The intent is stored before the request, and it is the lock: a second process that wants to
//     exchange finds it, waits, and reads the chain again.
//   - There is one request, never repeated, on a connection of its own, detached from every
//     cancellation.
//   - The new pair is stored before anything uses it, however often that takes.
//   - An answer that was lost or cannot be read leaves the attempt ambiguous. The access token is
//     used to its end; one probe later decides; a refusal says that the chain is dead and what a
//     person must do.
//   - A token that a person gives is exchanged first, under an attempt of the present chain, and
//     takes over only with the pair that it brings.
//
// A [Token] cannot be printed. It is sealed before it reaches the store, and no redirect is
// followed, because Go would carry the vendor's own headers along.
//
// With a folder (Config.SpoolDir) the raw answer is sealed into a file before anybody parses it
// (spool.go). The file is made, filled and synced before the intent, and the attempt names it. Whoever
// comes next finds an answer that is newer than the store and goes on with it: after a crash, and
// after a failover or a restore that forgot the pair. An attempt whose file is in a folder that is not
// here is not probed.
//
// Two secrets keys may be at hand while one is changed: both open, the present one seals (rekey.go).
//
// The protocol is searched completely as a model, with and without each protection (model_test.go).
package keystone
