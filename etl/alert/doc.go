// Package alert brings notices to people: by a webhook, by a command, or both; and it sends the sign
// of life whose absence another service notices.
//
// What a notice says is decided elsewhere, once, and stored; see [Outbox]. A [Sender] only delivers.
// It delivers at least once: a receiver that took a notice whose reply was lost gets it again, with
// the same id. Each channel is remembered by itself, so that one which works is not sent again what
// another one refuses.
//
// The URL of a webhook is as good as a password with most services, and so is that of a dead-man
// service: errors and logs name the host only. Redirects are refused, since they would lead the URL's
// readers elsewhere. The command is run without a shell and sees none of our environment.
package alert
