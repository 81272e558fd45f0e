package etl

import (
	"errors"
	"math"
	"math/big"
	"math/bits"
	"strconv"
)

// Decimal is an exact decimal number, coefficient × 10^-scale, always in canonical form: no
// trailing zero after the point, no negative zero. The zero value is 0. Coefficients beyond 64
// bits are kept as big integers, so no digit is ever lost.
type Decimal struct {
	coef  int64
	wide  *big.Int // set only when the coefficient does not fit coef; never changed once set
	scale int32    // digits after the point, >= 0
}

// Reasons for which a text is not a Decimal.
var (
	ErrNumberFormat = errors.New("not a decimal number")
	ErrNumberRange  = errors.New("number out of range")
)

const (
	maxNumberLength   = 40 // longest accepted text, see failure model R22
	maxExponentDigits = 2
)

// ParseDecimal reads a number in JSON's grammar (no plus sign, no leading zeros, ASCII digits).
// Text of another form is ErrNumberFormat. More than 40 characters or an exponent of more than
// two digits is ErrNumberRange, found before any arithmetic. Negative zero is read as 0.
func ParseDecimal(text []byte) (Decimal, error) {
	if d, ok := parseShort(text); ok {
		return d, nil
	}
	num, ok := scanNumber(text)
	switch {
	case !ok:
		return Decimal{}, ErrNumberFormat
	case len(text) > maxNumberLength, num.exponentDigits > maxExponentDigits:
		return Decimal{}, ErrNumberRange
	}
	var d Decimal
	fits := true
	for _, part := range [2][]byte{num.whole, num.fraction} {
		for _, c := range part {
			hi, lo := bits.Mul64(uint64(d.coef), 10)
			sum, carry := bits.Add64(lo, uint64(c-'0'), 0)
			if hi != 0 || carry != 0 || sum > 1<<63-1 {
				fits = false
				break
			}
			d.coef = int64(sum)
		}
	}
	if !fits {
		d.coef = 0
		d.wide, _ = new(big.Int).SetString(string(num.whole)+string(num.fraction), 10)
	}
	if num.negative {
		d.coef = -d.coef
		if d.wide != nil {
			d.wide.Neg(d.wide)
		}
	}
	d.scale = int32(len(num.fraction)) - num.exponent
	return d.canonical(), nil
}

// parseShort is ParseDecimal for the numbers that vendors write by the hundred thousand: at most 18
// digits and no exponent. What it does not know may still be a number.
func parseShort(text []byte) (d Decimal, ok bool) {
	const longest = len("123456789012345678.")
	rest := text
	if len(rest) > 0 && rest[0] == '-' {
		rest = rest[1:]
	}
	if len(rest) == 0 || len(rest) > longest || rest[0] == '0' && len(rest) > 1 && rest[1] != '.' {
		return Decimal{}, false
	}
	point := -1
	for i, c := range rest {
		switch digit := c - '0'; {
		case digit <= 9:
			d.coef = d.coef*10 + int64(digit)
		case c == '.' && point < 0 && i > 0:
			point = i
		default:
			return Decimal{}, false
		}
	}
	switch {
	case point == len(rest)-1, point < 0 && len(rest) == longest: // nothing behind the point; 19 digits
		return Decimal{}, false
	case point > 0:
		d.scale = int32(len(rest) - 1 - point)
	}
	if len(rest) < len(text) {
		d.coef = -d.coef
	}
	return d.canonical(), true
}

// MustDecimal is ParseDecimal for constants and tests; it panics on anything else.
func MustDecimal(text string) Decimal {
	d, err := ParseDecimal([]byte(text))
	if err != nil {
		panic("etl: MustDecimal(" + strconv.Quote(text) + "): " + err.Error())
	}
	return d
}

// NewDecimal is n as a Decimal.
func NewDecimal(n int64) Decimal { return Decimal{coef: n} }

type numberText struct {
	negative        bool
	whole, fraction []byte
	exponent        int32
	exponentDigits  int
}

// scanNumber checks text against the grammar of RFC 8259 section 6.
func scanNumber(text []byte) (n numberText, ok bool) {
	rest := text
	if len(rest) > 0 && rest[0] == '-' {
		n.negative, rest = true, rest[1:]
	}
	n.whole, rest = digits(rest)
	if len(n.whole) == 0 || (n.whole[0] == '0' && len(n.whole) > 1) {
		return n, false
	}
	if len(rest) > 0 && rest[0] == '.' {
		n.fraction, rest = digits(rest[1:])
		if len(n.fraction) == 0 {
			return n, false
		}
	}
	if len(rest) > 0 && (rest[0] == 'e' || rest[0] == 'E') {
		rest = rest[1:]
		sign := int32(1)
		if len(rest) > 0 && (rest[0] == '+' || rest[0] == '-') {
			if rest[0] == '-' {
				sign = -1
			}
			rest = rest[1:]
		}
		var exponent []byte
		exponent, rest = digits(rest)
		if len(exponent) == 0 {
			return n, false
		}
		n.exponentDigits = len(exponent)
		if len(exponent) <= maxExponentDigits {
			v, _ := strconv.Atoi(string(exponent))
			n.exponent = sign * int32(v)
		}
	}
	return n, len(rest) == 0
}

func digits(b []byte) (head, tail []byte) {
	i := 0
	for i < len(b) && '0' <= b[i] && b[i] <= '9' {
		i++
	}
	return b[:i], b[i:]
}

var ten = big.NewInt(10)

func pow10(n int32) *big.Int { return new(big.Int).Exp(ten, big.NewInt(int64(n)), nil) }

// canonical strips zeros behind the point, expands negative scales, and narrows where it fits.
func (d Decimal) canonical() Decimal {
	if d.wide != nil {
		return canonicalWide(d.wide, d.scale)
	}
	if d.coef == 0 {
		return Decimal{}
	}
	for d.scale > 0 && d.coef%10 == 0 {
		d.coef /= 10
		d.scale--
	}
	if d.scale < 0 {
		coef, ok := shift(d.coef, -d.scale)
		if !ok {
			return canonicalWide(big.NewInt(d.coef), d.scale)
		}
		d.coef, d.scale = coef, 0
	}
	return d
}

func canonicalWide(coef *big.Int, scale int32) Decimal {
	if scale < 0 {
		coef, scale = new(big.Int).Mul(coef, pow10(-scale)), 0
	}
	rest := new(big.Int)
	for scale > 0 {
		q, r := new(big.Int).QuoRem(coef, ten, rest)
		if r.Sign() != 0 {
			break
		}
		coef, scale = q, scale-1
	}
	if coef.IsInt64() {
		if coef.Sign() == 0 {
			return Decimal{}
		}
		return Decimal{coef: coef.Int64(), scale: scale}
	}
	return Decimal{wide: coef, scale: scale}
}

// powers are the powers of ten that an int64 holds.
var powers = func() (p [19]int64) {
	p[0] = 1
	for i := 1; i < len(p); i++ {
		p[i] = p[i-1] * 10
	}
	return p
}()

// shiftable are the greatest coefficients that still fit when multiplied by a power of ten.
var shiftable = func() (most [len(powers)]int64) {
	for i, p := range powers {
		most[i] = math.MaxInt64 / p
	}
	return most
}()

// shift is coef × 10^places, if it fits.
func shift(coef int64, places int32) (int64, bool) {
	if int(places) >= len(powers) {
		return 0, coef == 0
	}
	if most := shiftable[places]; coef > most || coef < -most {
		return 0, false
	}
	return coef * powers[places], true
}

// big is the coefficient as a big integer at the given scale, which is at least d's own.
func (d Decimal) big(scale int32) *big.Int {
	c := d.wide
	if c == nil {
		c = big.NewInt(d.coef)
	}
	if scale == d.scale {
		return c
	}
	return new(big.Int).Mul(c, pow10(scale-d.scale))
}

// Sign is -1, 0 or 1.
func (d Decimal) Sign() int {
	if d.wide != nil {
		return d.wide.Sign()
	}
	switch {
	case d.coef < 0:
		return -1
	case d.coef > 0:
		return 1
	}
	return 0
}

// Neg is -d.
func (d Decimal) Neg() Decimal {
	if d.wide != nil || d.coef == -1<<63 {
		return canonicalWide(new(big.Int).Neg(d.big(d.scale)), d.scale)
	}
	d.coef = -d.coef
	return d
}

// Add is d + e, exactly.
func (d Decimal) Add(e Decimal) Decimal {
	if d.wide == nil && e.wide == nil {
		if coef, scale, ok := addSmall(d.coef, d.scale, e.coef, e.scale); ok {
			return Decimal{coef: coef, scale: scale}.canonical()
		}
	}
	var s Sum
	s.Add(d)
	s.Add(e)
	return s.Decimal()
}

// Sub is d - e, exactly.
func (d Decimal) Sub(e Decimal) Decimal { return d.Add(e.Neg()) }

// Cmp compares by value: -1, 0 or 1.
func (d Decimal) Cmp(e Decimal) int {
	if d.wide == nil && e.wide == nil && d.scale == e.scale {
		switch {
		case d.coef < e.coef:
			return -1
		case d.coef > e.coef:
			return 1
		}
		return 0
	}
	if d.wide == nil && e.wide == nil {
		if diff, _, ok := addSmall(d.coef, d.scale, -e.coef, e.scale); ok && e.coef != -1<<63 {
			return Decimal{coef: diff}.Sign()
		}
	}
	scale := max(d.scale, e.scale)
	return d.big(scale).Cmp(e.big(scale))
}

// Equal compares by value.
func (d Decimal) Equal(e Decimal) bool {
	if d.wide == nil && e.wide == nil { // both canonical
		return d.coef == e.coef && d.scale == e.scale
	}
	return d.Cmp(e) == 0
}

// IsWhole tells whether d has no digits behind the point.
func (d Decimal) IsWhole() bool { return d.scale == 0 }

// Quo is d / n rounded once, half away from zero, to places digits behind the point. n must not be 0.
func (d Decimal) Quo(n int64, places int32) Decimal {
	if up := places - d.scale; d.wide == nil && n > 0 && up >= 0 && int(up) < len(powers) {
		hi, lo := bits.Mul64(magnitude(d.coef), uint64(powers[up]))
		if hi < uint64(n) {
			q, r := bits.Div64(hi, lo, uint64(n))
			if q < math.MaxInt64 { // rounded up it fits as well
				if 2*r >= uint64(n) {
					q++
				}
				if d.coef < 0 {
					return Decimal{coef: -int64(q), scale: places}.canonical()
				}
				return Decimal{coef: int64(q), scale: places}.canonical()
			}
		}
	}
	num, den := new(big.Int).Set(d.big(d.scale)), big.NewInt(n)
	if places >= d.scale {
		num.Mul(num, pow10(places-d.scale))
	} else {
		den.Mul(den, pow10(d.scale-places))
	}
	q, r := new(big.Int).QuoRem(num, den, new(big.Int))
	if r.Abs(r).Lsh(r, 1).CmpAbs(den) >= 0 {
		q.Add(q, big.NewInt(int64(num.Sign()*den.Sign())))
	}
	return canonicalWide(q, places)
}

func magnitude(v int64) uint64 {
	if v < 0 {
		return -uint64(v)
	}
	return uint64(v)
}

// Coefficient gives d as coefficient × 10^-scale, for who writes it in another form; ok is false when
// the coefficient has more than 64 bits.
func (d Decimal) Coefficient() (coefficient int64, scale int32, ok bool) {
	return d.coef, d.scale, d.wide == nil
}

// AppendText appends the canonical plain text of d: no exponent, no trailing zeros.
func (d Decimal) AppendText(b []byte) []byte {
	if d.wide == nil && d.scale <= maxPlaces {
		return d.appendShort(b)
	}
	start := len(b)
	if d.wide != nil {
		b = d.wide.Append(b, 10)
	} else {
		b = strconv.AppendInt(b, d.coef, 10)
	}
	if d.scale == 0 {
		return b
	}
	if b[start] == '-' {
		start++
	}
	for len(b)-start <= int(d.scale) { // 0.0012: pad so that one digit stands before the point
		b = append(b, 0)
		copy(b[start+1:], b[start:])
		b[start] = '0'
	}
	b = append(b, 0)
	point := len(b) - 1 - int(d.scale)
	copy(b[point+1:], b[point:])
	b[point] = '.'
	return b
}

// maxPlaces is how many digits behind the point appendShort has room for.
const maxPlaces = 20

// appendShort is AppendText for what most figures are. Digits are made from the last one on.
func (d Decimal) appendShort(b []byte) []byte {
	var room [maxPlaces + 24]byte
	i, left := len(room), magnitude(d.coef)
	places := int(d.scale)
	for ; places >= 2; places -= 2 {
		pair := left % 100
		left /= 100
		i -= 2
		room[i], room[i+1] = byte('0'+pair/10), byte('0'+pair%10)
	}
	if places == 1 {
		i--
		room[i] = byte('0' + left%10)
		left /= 10
	}
	if d.scale > 0 {
		i--
		room[i] = '.'
	}
	for {
		i--
		room[i] = byte('0' + left%10)
		if left /= 10; left == 0 {
			break
		}
	}
	if d.coef < 0 {
		i--
		room[i] = '-'
	}
	return append(b, room[i:]...)
}

// String is the canonical plain text of d.
func (d Decimal) String() string { return string(d.AppendText(nil)) }

// MarshalText is the canonical plain text of d, so that JSON output carries exact digits.
func (d Decimal) MarshalText() ([]byte, error) { return d.AppendText(nil), nil }

// UnmarshalText reads what MarshalText wrote. Unlike ParseDecimal it has no limits of length: it
// reads back numbers that were accepted once, or sums of them.
func (d *Decimal) UnmarshalText(text []byte) error {
	n, ok := scanNumber(text)
	if !ok || n.exponentDigits > 0 {
		return ErrNumberFormat
	}
	if len(text) <= maxNumberLength {
		parsed, err := ParseDecimal(text)
		*d = parsed
		return err
	}
	coef, _ := new(big.Int).SetString(string(n.whole)+string(n.fraction), 10)
	if n.negative {
		coef.Neg(coef)
	}
	*d = canonicalWide(coef, int32(len(n.fraction)))
	return nil
}

// Sum adds decimals exactly without bringing each step into canonical form. The zero value is 0.
type Sum struct {
	coef  int64
	wide  *big.Int // owned by the Sum; nil while coef suffices
	scale int32
}

// Add adds d.
func (s *Sum) Add(d Decimal) {
	if s.wide == nil && d.wide == nil {
		if coef, scale, ok := addSmall(s.coef, s.scale, d.coef, d.scale); ok {
			s.coef, s.scale = coef, scale
			return
		}
	}
	if s.wide == nil {
		s.wide = big.NewInt(s.coef)
	}
	if d.scale > s.scale {
		s.wide.Mul(s.wide, pow10(d.scale-s.scale))
		s.scale = d.scale
	}
	s.wide.Add(s.wide, d.big(s.scale))
}

func addSmall(a int64, aScale int32, b int64, bScale int32) (sum int64, scale int32, ok bool) {
	scale, ok = aScale, true
	switch {
	case aScale < bScale:
		scale = bScale
		a, ok = shift(a, bScale-aScale)
	case bScale < aScale:
		b, ok = shift(b, aScale-bScale)
	}
	if !ok {
		return 0, 0, false
	}
	sum = a + b
	return sum, scale, (sum > a) == (b > 0)
}

// Decimal is the sum so far.
func (s *Sum) Decimal() Decimal {
	if s.wide != nil {
		return canonicalWide(new(big.Int).Set(s.wide), s.scale)
	}
	return Decimal{coef: s.coef, scale: s.scale}.canonical()
}
