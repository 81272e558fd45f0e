package wolkvox

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"meterhouse/etl"
	"meterhouse/etl/internal/accept"
	"meterhouse/etl/internal/fetch"
	"meterhouse/etl/internal/jsonread"
)

// maxRefusal is how much of an answer may be the vendor's words about why it refuses.
const maxRefusal = 64 << 10

// judge reads a status and, where the vendor's habit makes it necessary, the message.
func (a *Account) judge(res *fetch.Result) (noData bool, err error) {
	if res.Status == http.StatusOK && res.Body.Size() > maxRefusal {
		return false, nil
	}
	said, err := readMessage(res.Body)
	if err != nil {
		return false, err
	}
	switch status := res.Status; status {
	case http.StatusOK:
		if code := said.status(); said.isKnown(code) {
			return a.refusal(code, said)
		}
		return false, nil // good, or for Transform to refuse
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return a.refusal(status, said)
	}
	err = fetch.Status(res)
	var failed *fetch.Error
	if errors.As(err, &failed) && said.words != "" {
		failed.Reject.Detail += fmt.Sprintf(": %q", a.excerpt(said.words))
	}
	return false, err
}

// refusal is what the vendor's own refusals mean. Four of them share 403; the message decides.
func (a *Account) refusal(status int, said message) (noData bool, err error) {
	words := strings.ToUpper(said.words)
	reason, class := "vendor_error", etl.ErrContract
	switch {
	case status == http.StatusNotFound:
		return true, nil
	case status == http.StatusBadRequest:
		if strings.Contains(words, "DOES NOT EXIST") {
			reason = "api_unknown"
		}
	case strings.Contains(words, "SIMULTANEOUS"):
		reason, class = "concurrency", etl.ErrThrottled
	case strings.Contains(words, "LIMIT EXCEEDED"):
		reason, class = "quota_exceeded", etl.ErrThrottled
	case status == http.StatusUnauthorized, strings.Contains(words, "TOKEN"):
		reason, class = "token_invalid", etl.ErrUnauthorized
	default: // during backups the vendor switches the API off, with a body nobody has published
		reason, class = "vendor_maintenance", etl.ErrUnavailable
	}
	return false, &etl.RejectError{Reason: reason, Detail: fmt.Sprintf("status %d: %q", status, a.excerpt(said.words)), Class: class}
}

// message is what an envelope says beside its data.
type message struct {
	code  string // as text, "" when there is none
	words string // error and msg, or the body itself when it is no envelope
}

func readMessage(body etl.Body) (message, error) {
	r, err := body.Open()
	if err != nil {
		return message{}, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxRefusal))
	if err != nil {
		return message{}, err
	}
	if m, ok := parseMessage(text); ok {
		return m, nil
	}
	return message{words: string(bytes.ToValidUTF8(text, []byte("\ufffd")))}, nil
}

func parseMessage(text []byte) (m message, ok bool) {
	r := jsonread.New(bytes.NewReader(text))
	if kind, err := r.Kind(); err != nil || kind != jsonread.Object {
		return message{}, false
	}
	var kind, msg string
	err := r.Object(func(name string) error {
		s, err := r.Scalar()
		if err != nil {
			return err
		}
		if s.Kind != jsonread.String && s.Kind != jsonread.Number {
			return nil
		}
		switch value := string(accept.Trim(s.Text)); name {
		case "code":
			m.code = value
		case "error":
			kind = value
		case "msg":
			msg = value
		}
		return nil
	})
	if err == nil {
		err = r.End()
	}
	m.words = strings.TrimSpace(kind + " " + msg)
	return m, err == nil
}

// status is the code as an HTTP status, 0 when it is none of those that refuse.
func (m message) status() int {
	switch m.code {
	case "400":
		return http.StatusBadRequest
	case "401":
		return http.StatusUnauthorized
	case "403":
		return http.StatusForbidden
	case "404":
		return http.StatusNotFound
	}
	return 0
}

// isKnown tells whether the words are the vendor's own for a status. Beside HTTP 200 nothing less
// is believed: an odd code on good data is for a developer to see.
func (m message) isKnown(status int) bool {
	known := map[int][]string{
		http.StatusBadRequest:   {"THE API YOU WANT TO CONSULT DOES NOT EXIST"},
		http.StatusUnauthorized: {"PLEASE ENTER THE WOLKVOX-TOKEN", "PLEASE VALIDATE TOKEN"},
		http.StatusForbidden:    {"TOKEN LIMIT EXCEEDED", "LIMIT OF SIMULTANEOUS REQUESTS", "PLEASE VALIDATE TOKEN"},
		http.StatusNotFound:     {"VALIDATE DATES ENTERED"},
	}
	words := strings.ToUpper(m.words)
	for _, phrase := range known[status] {
		if strings.Contains(words, phrase) {
			return true
		}
	}
	return false
}

// excerpt makes the vendor's words fit for an error: without the token, at most 200 characters,
// nothing that could act on a terminal.
func (a *Account) excerpt(words string) string {
	clean := []rune(accept.Excerpt([]byte(a.redact(words))))
	if len(clean) > 200 {
		return string(clean[:200]) + "…"
	}
	return string(clean)
}
