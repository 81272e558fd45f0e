// Package fetch makes one polite HTTP exchange with a vendor.
//
// Polite and safe mean: one attempt is one request on the wire, which net/http does not promise by
// itself (it repeats a GET when a kept-alive connection dies under it); redirects are never
// followed, because Go would carry the vendors' custom credential headers along; TLS is always
// verified; nothing is taken from the environment; a name of the public network may not resolve to
// an inner address; time, headers, body and compression ratio are bounded; and no error repeats a
// header's value.
//
// A body is hashed and compressed while it arrives. It stays in memory up to 8 MiB compressed and
// goes to a private file beyond, so memory does not grow with the answer.
//
// Which status means what is the vendor's affair: [Client.Do] reports the exchange itself, and
// [Status] offers the usual reading of a status.
package fetch
