package keystone

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"meterhouse/etl"
	"meterhouse/etl/internal/jsonread"
)

// exchange is what came of one POST to the token endpoint, unparsed.
type exchange struct {
	sent   bool // false: certainly nothing of the token left this machine
	status int
	body   []byte
	err    error // the exchange broke; body holds nothing that may be used then
}

// outcome is what an answer of the token endpoint means for the chain.
type outcome uint8

const (
	notSent         outcome = iota // the token was not spent
	rotated                        // ROTATE: a new pair
	rotatedNoAccess                // ROTATE_NO_ACCESS: a new refresh token without a usable access token
	keptOld                        // KEEP_OLD: a new access token, the refresh token stays
	ambiguous                      // AMBIGUOUS: nobody knows whether the token was spent
	dead                           // DEAD: refused, a person must log in
)

func (o outcome) String() string {
	return [...]string{"NOT_SENT", "ROTATE", "ROTATE_NO_ACCESS", "KEEP_OLD", "AMBIGUOUS", "DEAD"}[o]
}

// stored tells that the chain has a new generation.
func (o outcome) stored() bool { return o == rotated || o == rotatedNoAccess || o == keptOld }

// tokenAnswer is an exchange, understood. The tokens are set as far as the outcome says.
type tokenAnswer struct {
	outcome         outcome
	refresh, access Token
	detail          string // for people; never holds a token
	class           error  // of notSent
	drift           []string
}

// classify reads an exchange by the rules of failure model 3.1 and its K table: old is the token
// that was sent. It never guesses: whatever is not clear is ambiguous.
func classify(x exchange, old Token) tokenAnswer {
	switch {
	case !x.sent:
		class := etl.ErrUnavailable
		if errors.Is(x.err, etl.ErrContract) {
			class = etl.ErrContract
		}
		return tokenAnswer{outcome: notSent, class: class, detail: discreet(errText(x.err), old)}
	case x.err != nil:
		return tokenAnswer{outcome: ambiguous, detail: discreet(errText(x.err), old)}
	case x.status == http.StatusBadRequest || x.status == http.StatusUnauthorized:
		message, isError := vendorMessage(x.body)
		detail := fmt.Sprintf("%d %q", x.status, discreet(message, old))
		if !isError {
			return tokenAnswer{outcome: ambiguous, detail: detail + " without a JSON error"}
		}
		return tokenAnswer{outcome: dead, detail: detail}
	case x.status != http.StatusOK:
		message, _ := vendorMessage(x.body)
		return tokenAnswer{outcome: ambiguous, detail: fmt.Sprintf("%d %q", x.status, discreet(message, old))}
	}

	var s tokenScan
	if err := s.read(x.body); err != nil {
		// The reader's detail may quote the body: only the name of the rule is safe.
		reason := "unreadable"
		if reject := (*etl.RejectError)(nil); errors.As(err, &reject) {
			reason = reject.Reason
		}
		return tokenAnswer{outcome: ambiguous, detail: "answer of another form: " + reason}
	}
	access, accessProblem := s.access.one()
	refresh, refreshProblem := s.refresh.one()
	a := tokenAnswer{refresh: refresh, access: access, drift: s.drift}
	switch {
	case s.refresh.count == 0 && accessProblem != "":
		a.outcome, a.detail = ambiguous, "no token in the answer"
	case s.refresh.count == 0:
		a.outcome, a.refresh, a.detail = keptOld, old, "no refresh token in the answer"
	case refreshProblem != "":
		a.outcome, a.detail = ambiguous, "refresh token "+refreshProblem
	case refresh.Equal(old) && accessProblem != "":
		a.outcome, a.detail = ambiguous, "the refresh token that was sent, access token "+accessProblem
	case refresh.Equal(old):
		a.outcome, a.detail = keptOld, "the refresh token that was sent"
	case accessProblem != "":
		a.outcome, a.detail = rotatedNoAccess, "access token "+accessProblem
	default:
		a.outcome = rotated
	}
	return a
}

// tokenScan looks for tokens at any depth of an answer.
type tokenScan struct {
	refresh, access candidate
	drift           []string // where else than documented a token was found
}

// candidate is what was found under the names of one token.
type candidate struct {
	count   int
	token   Token
	problem string
}

// one is the token if there is exactly one and it can be used; else the problem in words.
func (c *candidate) one() (Token, string) {
	switch {
	case c.count == 0:
		return Token{}, "missing"
	case c.count > 1:
		return Token{}, "found more than once"
	}
	return c.token, c.problem
}

func (s *tokenScan) read(body []byte) error {
	r := jsonread.New(bytes.NewReader(body))
	if err := s.walk(r); err != nil {
		return err
	}
	return r.End()
}

func (s *tokenScan) walk(r *jsonread.Reader) error {
	kind, err := r.Kind()
	if err != nil {
		return err
	}
	switch kind {
	case jsonread.Object:
		return r.Object(func(name string) error {
			var into *candidate
			switch plainName(name) {
			case "refreshtoken":
				into = &s.refresh
			case "accesstoken":
				into = &s.access
			default:
				return s.walk(r)
			}
			into.count++
			if path := r.Path(); path != "/refresh_token" && path != "/access_token" {
				s.drift = append(s.drift, path)
			}
			v, err := r.Scalar()
			if err != nil {
				return err
			}
			if v.Kind != jsonread.String {
				into.problem = "is " + v.Kind.String()
				return nil
			}
			into.token, err = NewToken(string(v.Text))
			if err != nil {
				into.problem = "is unusable: " + err.Error()
			}
			return nil
		})
	case jsonread.Array:
		return r.Array(func(int) error { return s.walk(r) })
	}
	return r.Skip()
}

// plainName is a member name without case, underscores and dashes.
func plainName(name string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(name))
}

// vendorMessage finds the vendor's words in an error body: message, error or errors[].message,
// else the text itself. isError tells that the body is a JSON object that has one of them.
func vendorMessage(body []byte) (text string, isError bool) {
	found := map[string]string{}
	r := jsonread.New(bytes.NewReader(body))
	if kind, err := r.Kind(); err != nil || kind != jsonread.Object {
		return string(body), false
	}
	err := r.Object(func(name string) error {
		switch name {
		case "message", "error", "errors":
			text, err := wordsOf(r)
			found[name] = text
			return err
		}
		return r.Skip()
	})
	if err == nil {
		err = r.End()
	}
	if err != nil {
		return string(body), false
	}
	for _, name := range []string{"message", "error", "errors"} {
		if text := found[name]; text != "" {
			return text, true
		}
	}
	return string(body), false
}

// wordsOf is a string, or the message inside an object, or that of a list's first element.
func wordsOf(r *jsonread.Reader) (words string, err error) {
	kind, err := r.Kind()
	if err != nil {
		return "", err
	}
	switch kind {
	case jsonread.Object:
		err = r.Object(func(name string) error {
			if name != "message" {
				return r.Skip()
			}
			v, err := r.Scalar()
			words = string(v.Text)
			return err
		})
		return words, err
	case jsonread.Array:
		err = r.Array(func(i int) error {
			if i > 0 {
				return r.Skip()
			}
			words, err = wordsOf(r)
			return err
		})
		return words, err
	}
	v, err := r.Scalar()
	return string(v.Text), err
}

const (
	maxWords   = 200
	tokenPiece = 12 // so many characters of a token in a row give it away
)

// discreet makes a vendor's words fit for a log: one line, short, and withheld altogether when
// they repeat a piece of a token.
func discreet(text string, tokens ...Token) string {
	for _, t := range tokens {
		secret := t.text()
		for i := 0; i+tokenPiece <= len(secret); i++ {
			if strings.Contains(text, secret[i:i+tokenPiece]) {
				return "(withheld: it repeats the token)"
			}
		}
	}
	text = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "�"), func(r rune) bool {
		return r <= ' ' || r == 0x7f || (0x80 <= r && r < 0xa0) || r == 0x2028 || r == 0x2029
	}), " ")
	if runes := []rune(text); len(runes) > maxWords {
		text = string(runes[:maxWords]) + "…"
	}
	return text
}

func errText(err error) string {
	if err == nil {
		return "unknown"
	}
	return err.Error()
}
