// Package localpg runs a private, real Postgres: persistent for `meterhouse demo`, throw-away for tests.
//
// # Binaries
//
// They come from a Source. Installed looks around on this machine; Download fetches a release once, from a Maven
// repository into the user's cache, and accepts only the file whose SHA-256 is written in this package. The library
// github.com/fergusstrange/embedded-postgres takes the same files, but it cannot fetch without running the server its own
// way, passes when a repository has no checksum, and believes the one that lies beside the file: a mirror would have to
// be trusted.
//
// # The folder
//
//	meterhouse.lock   flock held while a server is in use; names the owner's pid
//	data/             the Postgres data folder, the only part the server may write
//	postgresql.conf   written at every start; includes data/postgresql.conf
//	password, port    kept, so that a printed psql line stays valid after a restart
//	server.log        of this start; server.log.1 of the one before
//
// Ownership is an flock and not a noted pid and start time: the kernel drops it the moment the owner dies, it cannot be
// confused by a reused pid, and it also holds between containers that share a folder. Whoever gets the lock may stop a
// leftover server and, if the folder was temporary, delete it.
//
// # Who may connect
//
// The server listens on 127.0.0.1 only, no socket file anywhere, and asks superuser "meterhouse" for a random password
// (scram-sha-256), so other users of the machine stay out while psql and pgx need nothing but the URL. The cluster
// is UTF8, locale C, time zone UTC.
//
// # Root
//
// Postgres refuses to run as root. Started by root, the server runs as the owner of the folder if that is somebody
// else, otherwise as postgres, otherwise as nobody.
//
// # Death of the owner
//
// The server is started through a shell that first leaves a watcher behind. It reads a pipe whose other end only our
// process holds; end of file without a word means we died, by kill -9 too, and it shuts the server down. Linux's
// parent death signal would do the same (it does survive the change of user), but it follows the thread that forked
// and exists on Linux only. Should the watcher die as well, the next Start on the folder stops the leftover server.
package localpg
