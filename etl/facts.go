package etl

import (
	"log/slog"
	"time"
)

// Customer is one customer that a credential may see.
type Customer struct {
	ID   string
	Name *string // nil when the vendor does not say
}

// Subscription is how one record of an answer names a subscription and its term.
type Subscription struct {
	Number      string
	AccountName *string
	Start, End  *time.Time // nil: unknown start, open end
	StartText   *string    // the dates as delivered, nil when absent
	EndText     *string
	Repeated    bool // the answer holds this number in several records of different terms
}

// Terms is one subscription with the capacity committed per service level.
type Terms struct {
	Subscription
	Levels []Commitment
	// Partial says that a level of this record was rejected, so a level that is not among Levels
	// is not known to be absent.
	Partial bool
}

// Commitment is the capacity committed for one service level. Equal names are instances of one
// level, in the order of the answer.
type Commitment struct {
	Level        string
	CommittedTiB Decimal
}

// Readings is one subscription with its consumption as of now.
type Readings struct {
	Subscription
	Levels  []LevelReading
	Partial bool // as in Terms
}

// LevelReading is the present consumption of one service level. Equal names are instances of one
// level, in the order of the answer.
type LevelReading struct {
	Level        string
	CommittedTiB Decimal
	ConsumedTiB  Decimal
	BurstTiB     *Decimal   // nil: unknown
	AccruedTiB   *Decimal   // nil: unknown; accrued burst as the vendor counts it
	ReadAt       *time.Time // when the vendor took the reading; nil: the vendor does not say
}

// History is one subscription with its consumption samples of a window.
type History struct {
	Subscription
	Levels  []LevelHistory
	Partial bool // as in Terms
}

// LevelHistory holds the samples of one instance of a service level, in order of time without
// repeats, all inside the asked window.
type LevelHistory struct {
	Level   string
	Samples []Sample
	// PartialDays lost at least one sample to quarantine. AllPartial says that a lost sample could
	// not be dated, so every day of this level is in doubt.
	PartialDays map[Day]bool
	AllPartial  bool
}

// Sample is one consumption record at the vendor's own timestamp.
type Sample struct {
	At           int64 // microseconds since 1970-01-01T00:00:00Z
	CommittedTiB Decimal
	ConsumedTiB  Decimal
	BurstTiB     NullDecimal
	AccruedTiB   NullDecimal
	Invoiced     NullBool
}

// Day is the UTC day of the sample.
func (s *Sample) Day() Day {
	const microsPerDay = secondsPerDay * 1_000_000
	d := s.At / microsPerDay
	if s.At < 0 && s.At%microsPerDay != 0 {
		d--
	}
	return Day(d)
}

// SameMeasures tells whether two samples say the same quantities, known or not. Times and flags are
// not compared.
func (s *Sample) SameMeasures(o *Sample) bool {
	same := func(a, b NullDecimal) bool { return a.Known == b.Known && a.Equal(b.Decimal) }
	return s.CommittedTiB.Equal(o.CommittedTiB) && s.ConsumedTiB.Equal(o.ConsumedTiB) &&
		same(s.BurstTiB, o.BurstTiB) && same(s.AccruedTiB, o.AccruedTiB)
}

// NullDecimal is a Decimal or unknown. The zero value is unknown.
type NullDecimal struct {
	Decimal
	Known bool
}

// MarshalText is the decimal's text, and empty when unknown.
func (d NullDecimal) MarshalText() ([]byte, error) {
	if !d.Known {
		return nil, nil
	}
	return d.Decimal.MarshalText()
}

// NullBool is true, false or unknown. The zero value is unknown.
type NullBool uint8

// The three values of a NullBool.
const (
	Unknown NullBool = iota
	False
	True
)

// LicenseReading is what one product of an operation counted at one reading.
type LicenseReading struct {
	Operation   string
	Product     string // code of the product in the catalogue
	Description string
	LocalDate   Day     // the day in the operation's zone that the reading is filed under
	Items       Decimal // in the product's unit; a duration in minutes
	ItemsText   string  // as delivered, trimmed
	ReadAt      time.Time
}

// Product is an entry of a vendor's catalogue of licences and usages.
type Product struct {
	Number int
	Code   string // the vendor's name of the report
	Title  string
	Unit   string
	Kind   ProductKind
}

// ProductKind tells how a product's readings behave.
type ProductKind string

// Gauges are a state now; counters grow from the start of the local month.
const (
	Gauge   ProductKind = "gauge"
	Counter ProductKind = "counter"
)

// Reject is a record that the acceptance rules refused, or the store itself.
type Reject struct {
	Path    string // JSON pointer into the answer
	Reason  string // a name from the acceptance rules
	Excerpt string // the refused text, at most 500 characters, control characters replaced
	// What it was about, as far as it is known.
	Subscription string
	Level        string
	Description  string
	Day          *Day
}

// Sink takes what a transform makes of one answer, in order. An error ends the transform.
// Slices handed over are not kept by the caller.
type Sink interface {
	Customer(Customer) error
	Terms(Terms) error
	Readings(Readings) error
	History(History) error
	License(LicenseReading) error
	Reject(Reject) error
	// Restart forgets everything taken so far: the transform starts over with the same answer.
	Restart() error
}

// Discard takes everything and keeps nothing. Sinks that want only some of it embed it.
type Discard struct{}

var _ Sink = Discard{}

// Each of these does nothing.
func (Discard) Customer(Customer) error      { return nil }
func (Discard) Terms(Terms) error            { return nil }
func (Discard) Readings(Readings) error      { return nil }
func (Discard) History(History) error        { return nil }
func (Discard) License(LicenseReading) error { return nil }
func (Discard) Reject(Reject) error          { return nil }
func (Discard) Restart() error               { return nil }

// Report is what a transform says about a whole answer that it read to the end.
type Report struct {
	Received    int // records at the dataset's grain, the ignored and the quarantined included
	Ignored     int // exact duplicates, rows outside the window, blank rows
	Quarantined int // rejects; a rejected parent counts once
	Records     int // records in the answer's list, good or bad: 0 means the vendor said nothing
	Warnings    Warnings
	// Mismatch says that the vendor's own count does not fit the answer: the run is partial.
	Mismatch bool
	// Drift lists unknown members by normalised path, each once.
	Drift []string
}

// Warning is a deviation that was accepted, by its name in the acceptance rules.
type Warning struct {
	Count     int
	FirstPath string // JSON pointer of the first place
}

// VendorClockSkewed is the warning that a vendor's clock and ours differ, by its own word beside an answer. It is
// about the exchange: what is read, and loaded, is the same with it.
const VendorClockSkewed = "vendor_clock_skewed"

// Warnings counts deviations by name.
type Warnings map[string]Warning

// Add counts one deviation at path.
func (w Warnings) Add(name, path string) {
	seen, ok := w[name]
	if !ok {
		seen.FirstPath = path
	}
	seen.Count++
	w[name] = seen
}

// LogValue is such as "day_held 2, trimmed 1".
func (w Warnings) LogValue() slog.Value {
	counts := make(map[string]int, len(w))
	for name, warning := range w {
		counts[name] = warning.Count
	}
	return inWords(counts)
}
