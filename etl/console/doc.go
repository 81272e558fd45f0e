// Package console is what a running process shows over HTTP: whether it lives, whether it can work, and
// figures for a monitor.
//
//	/healthz  200 while the process lives: restart it when it does not answer
//	/readyz   200 when the database answers and has the right schema, else 503 and why, in a few words
//	/metrics  figures in Prometheus' text format
//
// The first two are for probes, which have no password: they say nothing but their state. Figures name
// customers and accounts, so they want a user and password as soon as any are configured, and without any
// they go to this machine only: [New] refuses to listen elsewhere, and a page in a browser that reaches
// us under a name of its own is turned away.
//
// It serves plain HTTP. Where passwords cross a network, put something that speaks TLS in front.
package console
