// Package console is what a running process shows over HTTP: pages for people, whether it lives, whether it can
// work, and figures for a monitor.
//
//	/         pages: overview, freshness, coverage, consumption, months, runs, quarantine, landed answers
//	/healthz  200 while the process lives: restart it when it does not answer
//	/readyz   200 when the database answers and has the right schema, else 503 and why, in a few words
//	/metrics  figures in Prometheus' text format
//
// Health and readiness are for probes, which have no password: they say nothing but their state. Everything else names
// customers and accounts, so it wants a user as soon as any are configured, people by a form and a session, monitors
// by basic authentication. Without users it goes to this machine only: [New] refuses to listen elsewhere, and a page in
// a browser that reaches us under a name of its own is turned away.
//
// A page reads the schema mart in one transaction that cannot write, and shows what the database writes: no figure is
// computed or rounded here. What takes long, such as what status says, is worked out in the background and told with
// its age; what a month comes to is kept with a fingerprint of what it depends on, and shown as current only
// while that is the same (see copies). Pages are made here, whole, and need no script; one that is under way says so,
// and loads itself again only for who asks for that. The browser is told to run and to load nothing that is not ours. What a
// person may change goes through functions in [Config], behind a role and a token in the form, and the page that follows
// is a new one, so that loading it again changes nothing.
//
// It serves plain HTTP. Where passwords cross a network, put something that speaks TLS in front and say so
// ([Config.URL]).
package console
