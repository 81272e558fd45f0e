package etl_test

import (
	"errors"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"meterhouse/etl"
)

// numberText draws texts that ParseDecimal must accept: up to 40 characters, small exponents.
func numberText(t *rapid.T, label string) string {
	return rapid.StringMatching(`-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,12})?([eE][+-]?[0-9])?`).Draw(t, label)
}

func rat(t *rapid.T, text string) *big.Rat {
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		t.Fatalf("big.Rat does not read %q", text)
	}
	return r
}

func TestDecimalAgreesWithRationals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := numberText(t, "a"), numberText(t, "b")
		da, db := etl.MustDecimal(a), etl.MustDecimal(b)
		ra, rb := rat(t, a), rat(t, b)
		same := func(op string, got etl.Decimal, want *big.Rat) {
			if rat(t, got.String()).Cmp(want) != 0 {
				t.Fatalf("%s of %s and %s: got %s, want %s", op, a, b, got, want.RatString())
			}
			if s := got.String(); strings.ContainsAny(s, "eE+") || strings.Contains(s, ".") && strings.HasSuffix(s, "0") || s == "-0" {
				t.Fatalf("%s of %s and %s: %q is not canonical", op, a, b, s)
			}
			var back etl.Decimal
			if err := back.UnmarshalText([]byte(got.String())); err != nil || !back.Equal(got) {
				t.Fatalf("%q does not read back: %s, %v", got, back, err)
			}
		}
		same("value", da, ra)
		same("sum", da.Add(db), new(big.Rat).Add(ra, rb))
		same("difference", da.Sub(db), new(big.Rat).Sub(ra, rb))
		if got, want := da.Cmp(db), ra.Cmp(rb); got != want || da.Equal(db) != (want == 0) {
			t.Fatalf("compare %s with %s: got %d, want %d", a, b, got, want)
		}
		n := rapid.Int64Range(1, 2000).Draw(t, "n")
		same("quotient", da.Quo(n, 12), roundHalfAway(new(big.Rat).Quo(ra, new(big.Rat).SetInt64(n)), 12))
	})
}

// A quotient that is rounded up to 2^64 needs one bit more than the digits it is made of.
func TestQuotientAtTheBordersOf64Bits(t *testing.T) {
	for _, c := range []struct {
		text   string
		n      int64
		places int32
		want   string
	}{
		{"350488137.4004814807", 19, 12, "18446744.073709551616"},
		{"-350488137.4004814807", 19, 12, "-18446744.073709551616"},
		{"9223372036854775807", 1, 0, "9223372036854775807"},
		{"922337203685477580.7", 1, 1, "922337203685477580.7"},
		{"1844674407370955161.3", 2, 1, "922337203685477580.7"}, // rounded up to the greatest int64
		{"1844674407370955161.5", 2, 1, "922337203685477580.8"},
	} {
		if got := etl.MustDecimal(c.text).Quo(c.n, c.places).String(); got != c.want {
			t.Errorf("%s / %d to %d places: got %s, want %s", c.text, c.n, c.places, got, c.want)
		}
	}
}

func roundHalfAway(r *big.Rat, places int64) *big.Rat {
	shift := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(places), nil))
	x := new(big.Rat).Mul(new(big.Rat).Abs(r), shift)
	x.Add(x, big.NewRat(1, 2))
	q := new(big.Rat).SetInt(new(big.Int).Quo(x.Num(), x.Denom()))
	q.Quo(q, shift)
	if r.Sign() < 0 {
		q.Neg(q)
	}
	return q
}

func TestSumIsExactBeyond64Bits(t *testing.T) {
	var s etl.Sum
	for range 1000 {
		s.Add(etl.MustDecimal("999999999.123456789012345678901234567890"))
		s.Add(etl.MustDecimal("-0.1e-30"))
	}
	if got, want := s.Decimal().String(), "999999999123.4567890123456789012345678899"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestParseDecimalRefuses(t *testing.T) {
	for text, want := range map[string]error{
		"": etl.ErrNumberFormat, "-": etl.ErrNumberFormat, "+1": etl.ErrNumberFormat, "01": etl.ErrNumberFormat, "1.": etl.ErrNumberFormat, ".5": etl.ErrNumberFormat,
		"1e": etl.ErrNumberFormat, "0x70": etl.ErrNumberFormat, "1_000": etl.ErrNumberFormat, "1,5": etl.ErrNumberFormat, "NaN": etl.ErrNumberFormat,
		"Infinity": etl.ErrNumberFormat, "١٢": etl.ErrNumberFormat, " 1": etl.ErrNumberFormat, "1 TiB": etl.ErrNumberFormat,
		"1e400": etl.ErrNumberRange, "1e-400": etl.ErrNumberRange, "1e1000000": etl.ErrNumberRange, strings.Repeat("9", 41): etl.ErrNumberRange,
	} {
		if _, err := etl.ParseDecimal([]byte(text)); !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", text, err, want)
		}
	}
	for text, want := range map[string]string{"-0.0": "0", "0e5": "0", "1.125e2": "112.5", "1e-9": "0.000000001", "-12.50": "-12.5", "9223372036854775808": "9223372036854775808", "-9223372036854775808": "-9223372036854775808"} {
		if d, err := etl.ParseDecimal([]byte(text)); err != nil || d.String() != want {
			t.Errorf("%q: got %s, %v; want %s", text, d, err, want)
		}
	}
}

func FuzzParseDecimal(f *testing.F) {
	for _, s := range []string{"0", "-1.5e-9", "112.500000000000000000001", "9223372036854775807", "1e99", "-0"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := etl.ParseDecimal(text)
		if err != nil {
			return
		}
		want, ok := new(big.Rat).SetString(string(text))
		got, _ := new(big.Rat).SetString(d.String())
		if !ok || want.Cmp(got) != 0 {
			t.Fatalf("%q: got %s", text, d)
		}
	})
}

func BenchmarkDecimalSum(b *testing.B) {
	d := etl.MustDecimal("1305.13")
	b.ReportAllocs()
	for b.Loop() {
		var s etl.Sum
		for range 288 {
			s.Add(d)
		}
	}
}
