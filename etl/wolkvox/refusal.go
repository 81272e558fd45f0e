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
func (a *Account) judge(res *fetch.Result) error {
	if res.Status == http.StatusOK && res.Body.Size() > maxRefusal {
		return nil
	}
	said, err := readMessage(res.Body)
	if err != nil {
		return err
	}
	switch status := res.Status; status {
	case http.StatusOK:
		if code := said.status(); code != 0 && !said.hasData {
			return a.refusal(code, fmt.Sprintf("status 200, code %d", code), said)
		}
		return nil // good, or for Transform to refuse
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return a.refusal(status, fmt.Sprintf("status %d", status), said)
	}
	err = fetch.Status(res)
	var failed *fetch.Error
	if errors.As(err, &failed) && said.words != "" {
		failed.Reject.Detail += fmt.Sprintf(": %q", a.excerpt(said.words))
	}
	return err
}

// refusal is what the vendor's own refusals mean. Four of them share 403; the message decides.
func (a *Account) refusal(status int, where string, said message) error {
	words := strings.ToUpper(said.words)
	reason, class := "vendor_error", etl.ErrContract
	switch {
	case status == http.StatusBadRequest, status == http.StatusNotFound:
		if strings.Contains(words, "THE API YOU WANT TO CONSULT DOES NOT EXIST") {
			reason = "api_unknown"
		} else if status == http.StatusNotFound {
			reason = "no_data"
		}
	case strings.Contains(words, "SIMULTANEOUS"):
		reason, class = refusedConcurrency, etl.ErrThrottled
	case strings.Contains(words, "LIMIT EXCEEDED"):
		reason, class = refusedQuota, etl.ErrThrottled
	case status == http.StatusUnauthorized, strings.Contains(words, "TOKEN"):
		reason, class = refusedToken, etl.ErrUnauthorized
	default: // during backups the vendor switches the API off, with a body nobody has published
		reason, class = refusedMaintenance, etl.ErrUnavailable
	}
	return &etl.RejectError{Reason: reason, Detail: fmt.Sprintf("%s: %q", where, a.excerpt(said.words)), Class: class}
}

// errPage is the class of a page in place of data: what to do about it ends the sentence.
var errPage = fmt.Errorf("%w: HTML instead of JSON; if the next run gets it too, check the account's server and base_url", etl.ErrContract)

// explain gives the class errPage to a refusal of a body that is a page.
func explain(body etl.Body, err error) error {
	var reject *etl.RejectError
	if !errors.As(err, &reject) {
		return err
	}
	r, openErr := body.Open()
	if openErr != nil {
		return err
	}
	defer r.Close()
	head, _ := io.ReadAll(io.LimitReader(r, 512)) // a broken spool makes no page
	if !bytes.HasPrefix(bytes.TrimLeft(head, "\ufeff \t\r\n"), []byte("<")) {
		return err
	}
	return &etl.RejectError{Reason: reject.Reason, Detail: reject.Detail, Class: errPage}
}

// message is what an envelope says beside its data.
type message struct {
	code    string // as text, "" when there is none
	words   string // error and msg, or the body itself when it is no envelope
	hasData bool   // rows, or one row: an odd code beside them is for a developer to see
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
		if name == "data" {
			m.hasData = s.Kind == jsonread.Array && string(s.Text) != "[]" || s.Kind == jsonread.Object && string(s.Text) != "{}"
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
	code, err := etl.ParseDecimal([]byte(m.code))
	if err != nil {
		return 0
	}
	for _, status := range []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound} {
		if code.Equal(etl.NewDecimal(int64(status))) {
			return status
		}
	}
	return 0
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
