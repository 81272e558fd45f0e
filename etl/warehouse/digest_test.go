package warehouse

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"meterhouse/etl"
)

// Digests are stored for years: these never change. Each can be recomputed with sha256sum from the bytes of
// docs/architecture.md.
func TestDigestVectors(t *testing.T) {
	t.Parallel()
	known := func(text string) etl.NullDecimal { return etl.NullDecimal{Decimal: etl.MustDecimal(text), Known: true} }
	one := func(when, committed, consumed string, burst, accrued etl.NullDecimal) etl.Sample {
		return etl.Sample{At: at(when).UnixMicro(), CommittedTiB: etl.MustDecimal(committed), ConsumedTiB: etl.MustDecimal(consumed), BurstTiB: burst, AccruedTiB: accrued}
	}
	for _, c := range []struct {
		name    string
		samples []etl.Sample
		bytes   string // what is hashed
		want    string
	}{
		{"the epoch", []etl.Sample{one("1970-01-01T00:00:00Z", "0", "0", etl.NullDecimal{}, known("0"))},
			"0000000000000000" + text("0", "0", "?", "0"),
			"4019b6772aac7994a8d794372828da82144314d969f753b05214839a84087392"},
		{"one sample", []etl.Sample{one("2026-05-14T00:00:00Z", "100", "112.5", known("12.5"), known("0.4"))},
			"000651bbc7052000" + text("100", "112.5", "12.5", "0.4"),
			"70ab644bc89151bbb75cdf187b29e589e62786ad15508783b6fceab7ab55bd34"},
		{"before 1970, negative, unknown, wide", []etl.Sample{
			one("1969-12-31T23:59:59.999999Z", "-0.5", "123456789012345678901234567890.125", etl.NullDecimal{}, etl.NullDecimal{}),
			one("2026-05-14T12:00:00.000001Z", "1e3", "1.10", known("0.000000000001"), known("-7")),
		}, "ffffffffffffffff" + text("-0.5", "123456789012345678901234567890.125", "?", "?") +
			"000651c5d5f0d001" + text("1000", "1.1", "0.000000000001", "-7"),
			"699a7ee4623c889962e84b6ba24cd4947792082d74a138bcdd58f692b4c418d7"},
	} {
		if c.name == "one sample" {
			if doc := documented(t); !strings.Contains(strings.ReplaceAll(doc, " ", ""), "`"+c.bytes+"`") || !strings.Contains(doc, "`"+c.want+"`") {
				t.Errorf("docs/architecture.md lacks the bytes %s and their digest %s", c.bytes, c.want)
			}
		}
		if got := digest(c.samples); hex.EncodeToString(got) != c.want {
			t.Errorf("%s: digest %x, want %s", c.name, got, c.want)
		}
		raw, err := hex.DecodeString(c.bytes)
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != c.want {
			t.Errorf("%s: SHA-256 of %s is %x, want %s", c.name, c.bytes, sum, c.want)
		}
	}
}

// text is the measures of a sample as they are hashed, in hex.
func text(measures ...string) string {
	return hex.EncodeToString([]byte(strings.Join(measures, "\x00") + "\x00"))
}

// canonical spells what a digest is made of, apart from the code under test: through rationals.
func canonical(samples []etl.Sample) []byte {
	var b []byte
	number := func(d etl.Decimal) {
		r, ok := new(big.Rat).SetString(d.String())
		if !ok {
			panic(d.String())
		}
		spelled := r.FloatString(60)
		b = append(b, strings.TrimSuffix(strings.TrimRight(spelled, "0"), ".")+"\x00"...)
	}
	null := func(d etl.NullDecimal) {
		if !d.Known {
			b = append(b, "?\x00"...)
			return
		}
		number(d.Decimal)
	}
	for _, s := range samples {
		b = binary.BigEndian.AppendUint64(b, uint64(s.At))
		number(s.CommittedTiB)
		number(s.ConsumedTiB)
		null(s.BurstTiB)
		null(s.AccruedTiB)
	}
	return b
}

// parse reads the bytes back: that it can is the proof that no two lists of samples have the same.
func parse(b []byte) (spelled []string, err error) {
	for len(b) > 0 {
		if len(b) < 8 {
			return nil, fmt.Errorf("%d bytes are left", len(b))
		}
		one := fmt.Sprint(int64(binary.BigEndian.Uint64(b)))
		b = b[8:]
		for range 4 {
			field, rest, found := bytes.Cut(b, []byte{0})
			if !found {
				return nil, fmt.Errorf("%q has no end", b)
			}
			one, b = one+" "+string(field), rest
		}
		spelled = append(spelled, one)
	}
	return spelled, nil
}

func spellSample(s etl.Sample) string {
	null := func(d etl.NullDecimal) string {
		if !d.Known {
			return "?"
		}
		return d.String()
	}
	return fmt.Sprint(s.At, " ", s.CommittedTiB, " ", s.ConsumedTiB, " ", null(s.BurstTiB), " ", null(s.AccruedTiB))
}

// drawMeasure draws from few numbers, so that equal ones and ones whose digits run on are common.
func drawMeasure(t *rapid.T, label string) etl.Decimal {
	return etl.MustDecimal(rapid.OneOf(
		rapid.SampledFrom([]string{"0", "1", "11", "111", "1.1", "0.1", "0.11", "-1", "-0", "1.0", "1e1", "10", "100e-1", "12345678901234567890.5"}),
		rapid.StringMatching(`-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,12})?`),
	).Draw(t, label))
}

func drawSamples(t *rapid.T, day etl.Day) (samples []etl.Sample) {
	for i := range rapid.IntRange(1, 4).Draw(t, "samples") {
		s := etl.Sample{At: day.Time().UnixMicro() + int64(i)*rapid.SampledFrom([]int64{1, 1_000_000, 3_600_000_000}).Draw(t, "apart"),
			CommittedTiB: drawMeasure(t, "committed"), ConsumedTiB: drawMeasure(t, "consumed")}
		if rapid.Bool().Draw(t, "burst known") {
			s.BurstTiB = etl.NullDecimal{Decimal: drawMeasure(t, "burst"), Known: true}
		}
		if rapid.Bool().Draw(t, "accrued known") {
			s.AccruedTiB = etl.NullDecimal{Decimal: drawMeasure(t, "accrued"), Known: true}
		}
		s.Invoiced = rapid.SampledFrom([]etl.NullBool{etl.Unknown, etl.False, etl.True}).Draw(t, "invoiced")
		if n := len(samples); n == 0 || s.At > samples[n-1].At {
			samples = append(samples, s)
		}
	}
	return samples
}

// Two lists of samples have one digest exactly when their times and measures are the same: swapped columns,
// 0 for unknown, digits that move from one field to the next, a sample more or less all differ.
func TestDigestTellsSamplesApart(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		samples := drawSamples(t, day("2026-05-14"))
		var told []string
		for _, s := range samples {
			told = append(told, spellSample(s))
		}
		encoded := canonical(samples)
		if sum := sha256.Sum256(encoded); !bytes.Equal(sum[:], digest(samples)) {
			t.Fatalf("%v: digest %x, recomputed %x", told, digest(samples), sum)
		}
		read, err := parse(encoded)
		if err != nil || !slices.Equal(read, told) {
			t.Fatalf("%v reads back as %v, %v", told, read, err)
		}

		other := slices.Clone(samples)
		s := &other[rapid.IntRange(0, len(other)-1).Draw(t, "which")]
		was := *s
		switch rapid.IntRange(0, 6).Draw(t, "change") {
		case 0:
			s.CommittedTiB, s.ConsumedTiB = s.ConsumedTiB, s.CommittedTiB
		case 1:
			s.BurstTiB, s.AccruedTiB = s.AccruedTiB, s.BurstTiB
		case 2:
			s.BurstTiB.Known, s.BurstTiB.Decimal = !s.BurstTiB.Known, etl.Decimal{}
		case 3:
			s.At++
		case 4:
			s.ConsumedTiB = drawMeasure(t, "other")
		case 5:
			s.Invoiced = etl.True // no part of it
		case 6:
			other = other[:len(other)-1]
		}
		same := len(other) == len(samples) && spellSample(*s) == spellSample(was)
		if got := bytes.Equal(digest(samples), digest(other)); got != same {
			t.Fatalf("%v and %+v: same digest %v, want %v", told, other, got, same)
		}
	})
}

// documented is what docs/architecture.md says about digests.
func documented(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n### The digest\n")
	if !found {
		t.Fatal("docs/architecture.md has no section The digest")
	}
	section, _, _ = strings.Cut(section, "\n### ")
	return section
}

// Postgres itself comes to the stored digests from the stored samples, whatever they are and in however many
// windows they came. The statement is the documented one.
func TestDigestInSQL(t *testing.T) {
	h := newHouse(t)
	_, recomputed, _ := strings.Cut(documented(t), "```sql\n")
	recomputed, _, _ = strings.Cut(recomputed, "```")
	customers := 0
	rapid.Check(t, func(rt *rapid.T) {
		first := day("2026-05-01")
		span := etl.Window{From: first, Until: first + 3}
		var samples []etl.Sample
		for d := span.From; d < span.Until; d++ {
			samples = append(samples, drawSamples(rt, d)...)
		}
		customers++
		digests := func(customer string, windows ...etl.Window) []string {
			for _, w := range windows {
				var inside []etl.Sample
				for _, s := range samples {
					if w.Contains(s.Day()) {
						inside = append(inside, s)
					}
				}
				s := &speech{window: w, sub: subscription1(), levels: []etl.LevelHistory{{Level: "Extreme", Samples: inside}}}
				if _, _, err := h.listen(customer, s); err != nil {
					rt.Fatal(err)
				}
				h.now = h.now.Add(time.Minute)
			}
			return h.rows(`select usage_date, encode(digest, 'hex') from dw.fact_daily_consumption join dw.dim_customer using (customer_key)
				where customer_id = $1 order by 1`, customer)
		}
		whole := digests(fmt.Sprintf("whole-%d", customers), span)
		cut := span.From + etl.Day(rapid.IntRange(1, 2).Draw(rt, "cut"))
		split := digests(fmt.Sprintf("split-%d", customers), etl.Window{From: cut, Until: span.Until}, etl.Window{From: span.From, Until: cut})
		if !slices.Equal(whole, split) {
			rt.Fatalf("in one window %v, in two %v", whole, split)
		}
	})
	h.want(`select count(*) = count(c.digest) and count(*) > 0, count(*) filter (where c.digest <> d.digest)
		from dw.fact_daily_consumption as d left join (`+recomputed+`) as c using (service_level_key, usage_date)`, "true|0")
}

// Two writers of one series: the second waits for the scope's lock, and decides by what the first has
// written. Had it read the digests before it got the lock, it would take the day for unchanged and the first
// one's figures would stay. (Leases keep two loads of one dataset apart; the lock is what holds when they
// do not, so the second writer goes by another name here.)
func TestDigestsAreReadAfterTheLock(t *testing.T) {
	h := newHouse(t)
	h.mustHistory(oneDay, extreme(sample(may14, "1")))
	tell := func(dataset string, consumed string, during func()) (etl.Outcome, error) {
		mine := *h
		return mine.load(etl.Job{Dataset: dataset, Scope: "C-1", Source: "keystone", Expected: day("2026-05-14")}, oneDay, func(sink etl.Sink) (etl.Report, error) {
			err := sink.History(etl.History{Subscription: subscription1(), Levels: []etl.LevelHistory{extreme(sample(may14, consumed))}})
			during()
			return etl.Report{Records: 1, Received: 1, Warnings: etl.Warnings{}}, err
		})
	}
	h.now = h.now.Add(time.Hour)
	var second etl.Outcome
	var secondErr error
	done := make(chan struct{})
	first, err := tell("keystone.history", "2", func() {
		go func() {
			defer close(done)
			second, secondErr = tell("keystone.twin", "1", func() {})
		}()
		for { // until it waits
			waiting := h.rows(`select count(*) from pg_locks where locktype = 'advisory' and not granted`)
			select {
			case <-done:
				t.Error("the second writer did not wait for the first")
				return
			default:
			}
			if waiting[0] != "0" {
				return
			}
		}
	})
	<-done
	if err != nil || secondErr != nil {
		t.Fatal(err, secondErr)
	}
	if first.Restated != 1 || second.Restated != 1 {
		t.Errorf("first %s, second %s, want both restated", counts(first), counts(second))
	}
	h.want(`select consumed_tib from dw.fact_consumption_sample`, "1")
	h.want(`select consumed_last_tib, restatement_count from dw.fact_daily_consumption`, "1|2")
}
