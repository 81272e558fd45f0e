package etltest

import (
	"context"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"meterhouse/etl"
)

// Config says how to make a source and what to ask it.
type Config struct {
	// Open makes a source and its fake vendor, fresh for every check. It starts no server: the
	// source shall ask env.BaseURL.
	Open func(t testing.TB, env Env) Vendor
	// Request is a question that the fake answers with at least one fact, in less than 64 kB of
	// JSON. A dataset of windows is asked for three days or more, with facts on each.
	Request etl.Request
	// Now is where the business clock starts; the fake's should stand there.
	Now time.Time
	// Refusals are the vendor's own ways of saying no, beside the statuses that all vendors use.
	Refusals map[string]Refusal
	// Foreign turns a good answer into one about somebody else, which must be refused. Nil means
	// that the vendor's answers do not say whom they are about.
	Foreign func(body []byte) []byte
}

// Env is what a source is made with. Each field belongs into the source's configuration.
type Env struct {
	BaseURL string
	Timeout time.Duration                              // of one exchange
	MaxBody int64                                      // of one answer
	Now     func() time.Time                           // business clock; goes on at every reading
	Wall    func() time.Time                           // this machine's clock, with which the vendor's is compared
	Sleep   func(context.Context, time.Duration) error // between attempts; takes no real time
	Log     *slog.Logger                               // of every level
}

// Vendor is a source and the fake that it asks.
type Vendor struct {
	Source etl.Source
	Fake   http.Handler
	// Secrets are credentials that nobody may ever see.
	Secrets []string
	// Credentials names the request headers that carry credentials the fake hands out: what is
	// sent in them is secret as well.
	Credentials []string
	// IsData tells the requests for data, which the suite disturbs, from others such as a login.
	// Nil: all are.
	IsData func(*http.Request) bool
}

// Refusal is an answer that must become an error of one class.
type Refusal struct {
	Status int
	Body   string
	Class  error
}

// Source checks a source. Each check is a parallel subtest with a source and a vendor of its own.
func Source(t *testing.T, cfg Config) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, cfg)
		})
	}
}

// checks are the promises of etl.Source, by name.
var checks = []struct {
	name string
	run  func(testing.TB, Config)
}{
	{"answer", checkAnswer},
	{"body", checkBody},
	{"cancellation", checkCancellation},
	{"classes", checkClasses},
	{"patience", checkPatience},
	{"time-out", checkTimeout},
	{"size", checkSize},
	{"redirect", checkRedirect},
	{"clock", checkClock},
	{"unknown dataset", checkUnknownDataset},
	{"one at a time", checkOneAtATime},
	{"discretion", checkDiscretion},

	{"accounts", checkAccounts},
	{"purity", checkPurity},
	{"replay", checkReplay},
	{"window", checkWindow},
	{"sink errors", checkSinkErrors},
	{"cut", checkCut},
	{"garbage", checkGarbage},
	{"damage", checkDamage},
	{"foreign", checkForeign},
}
