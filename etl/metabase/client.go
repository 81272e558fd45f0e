package metabase

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"meterhouse/etl/internal/fetch"
)

// ErrNotReady is that Metabase was not up, or had not read the schema, within the time it was given.
// Trying again later is safe.
var ErrNotReady = errors.New("metabase is not ready")

// StatusError is an answer that says no.
type StatusError struct {
	Request string // method and path
	Code    int
	Excerpt string // of the body, without what we sent as secrets
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("%s: got %d", e.Request, e.Code)
	if e.Excerpt != "" {
		text += " " + e.Excerpt
	}
	switch {
	case e.Code == http.StatusUnauthorized:
		text += ": want an administrator's login or API key"
	case e.Code == http.StatusForbidden:
		text += ": want a login or API key of the group Administrators"
	case e.Code >= 300 && e.Code < 400:
		text += ": a redirect is not followed, since it would take the login along: want the address that answers itself"
	case e.Code >= 500:
		text += ": see Metabase's own log; what was done so far stays, run it again to go on"
	}
	return text
}

const (
	requestTimeout = 2 * time.Minute // a card of a whole month is computed while we wait
	maxAnswer      = 64 << 20
	maxExcerpt     = 300
)

// client calls one Metabase. It never repeats a request by itself.
type client struct {
	base    *url.URL
	http    *http.Client
	secrets []string // starred out of excerpts
	session string
	apiKey  string
}

func newClient(cfg Config) (*client, error) {
	base, err := url.Parse(cfg.URL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" || base.User != nil {
		return nil, errors.New("metabase url: want https://host or http://host:port, without a login in it")
	}
	var roots *x509.CertPool // the system's
	if cfg.CAFile != "" {
		if roots, err = fetch.Roots(cfg.CAFile); err != nil {
			return nil, err
		}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil // the login goes to the host that was named
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	c := &client{base: base, apiKey: cfg.APIKey, http: &http.Client{
		Transport: transport, Timeout: requestTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	for _, secret := range []string{cfg.Password, cfg.APIKey, cfg.Warehouse.Password} {
		if secret != "" {
			c.secrets = append(c.secrets, secret)
		}
	}
	return c, nil
}

// call sends in as JSON, unless it is nil, and reads the answer into out, unless that is nil. path begins
// after /api.
func (c *client) call(ctx context.Context, method, path string, in, out any) error {
	request := method + " /api" + path
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s: %w", request, err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(c.base.String(), "/")+"/api"+path, body)
	if err != nil {
		return fmt.Errorf("%s: %w", request, err)
	}
	req.GetBody = nil // so that nothing sends it a second time
	req.Header.Set("Accept", "application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	switch {
	case c.apiKey != "":
		req.Header.Set("X-Api-Key", c.apiKey)
	case c.session != "":
		req.Header.Set("X-Metabase-Session", c.session)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", request, err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("%s: %w", request, err)
	}
	if len(answer) > maxAnswer {
		return fmt.Errorf("%s: the answer has more than %d bytes", request, maxAnswer)
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return &StatusError{request, res.StatusCode, c.excerpt(answer)}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s: %d %s: want JSON as Metabase's API describes it: %w", request, res.StatusCode, c.excerpt(answer), err)
	}
	return nil
}

// excerpt is the beginning of an answer on one line. Metabase repeats what it refuses, once as a text in JSON
// and once quoted within such a text, so our secrets are taken out in each of these forms.
func (c *client) excerpt(answer []byte) string {
	text := string(answer)
	for _, secret := range append(c.secrets, c.session) {
		if secret == "" {
			continue
		}
		for _, form := range []string{quoted(quoted(secret)), quoted(secret), secret} {
			text = strings.ReplaceAll(text, form, "********")
		}
	}
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	if len(text) > maxExcerpt {
		text = strings.ToValidUTF8(text[:maxExcerpt], "") + "…"
	}
	return text
}

// quoted is a text as it stands between the quotes of JSON.
func quoted(text string) string {
	var out strings.Builder
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text) // a text always can be
	return strings.TrimSuffix(strings.TrimPrefix(out.String(), `"`), "\"\n")
}

// instance is what Metabase tells everybody about itself.
type instance struct {
	SetupToken   string `json:"setup-token"`
	HasUserSetup bool   `json:"has-user-setup"`
	Version      struct {
		Tag string `json:"tag"`
	} `json:"version"`
}

// awaitHealth waits until Metabase says that it is up.
func (c *client) awaitHealth(ctx context.Context, patience patience) error {
	var last error
	for {
		if last = c.call(ctx, http.MethodGet, "/health", nil, nil); last == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !patience.wait(ctx, "waiting for Metabase at "+c.base.Redacted()) {
			return errors.Join(ctx.Err(), fmt.Errorf("%w: no health within %s at %s: %w: is it started, and is this its address?",
				ErrNotReady, patience.within, c.base.Redacted(), last))
		}
	}
}

// patience is how long and how often something is waited for.
type patience struct {
	within, every time.Duration
	until         time.Time
	notice        func(string)
}

// wait sleeps once; false means that the time is over, or the context is done.
func (p patience) wait(ctx context.Context, what string) bool {
	left := time.Until(p.until)
	if left <= 0 {
		return false
	}
	p.notice(fmt.Sprintf("%s, %s left", what, left.Round(time.Second)))
	timer := time.NewTimer(min(p.every, left))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
