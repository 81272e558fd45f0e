// Package fetch makes one polite HTTP exchange with a vendor.
//
// Polite and safe mean: one attempt is one request on the wire, which net/http does not promise by
// itself (it repeats a GET when a kept-alive connection dies under it); redirects are never
// followed, because Go would carry the vendors' custom credential headers along; TLS is always
// verified; nothing is taken from the environment; a name of the public network may not resolve to
// an inner address; time, headers, body and compression ratio are bounded; and no error repeats a
// header's value.
//
// A body is hashed while it arrives and kept as it is: in memory up to 4 MiB, in a private file
// without a name beyond, so memory does not grow with the answer and a crash leaves nothing. It is
// compressed only when somebody lands it: most bodies bring no news, and to compress them would cost
// as much as to read them.
//
// Which status means what is the vendor's affair: [Client.Do] reports the exchange itself, and
// [Status] offers the usual reading of a status.
package fetch
