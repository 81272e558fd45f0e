package alert

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/internal/fetch"
)

// newTransport makes requests that go nowhere but where they are sent.
func newTransport(proxy, caFile string) (*http.Transport, error) {
	transport := &http.Transport{
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableKeepAlives:      true, // one call now and then, and no silent repetition on a connection that died
	}
	if proxy != "" {
		u, err := url.Parse(proxy)
		if err != nil || u.Host == "" {
			return nil, errors.New("http.proxy: want a URL such as http://proxy.example:3128")
		}
		transport.Proxy = http.ProxyURL(u)
	}
	if caFile != "" {
		roots, err := fetch.Roots(caFile)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	return transport, nil
}

// checkURL takes https, and http to this machine. Errors do not repeat the URL.
func checkURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && (u.Scheme != "http" || !fetch.IsLoopback(u.Hostname())) {
		return nil, errors.New("want https://host/…, or http to this machine")
	}
	return u, nil
}

// post hands the notice to the webhook: 2xx is a receipt, anything else is none.
func (s *Sender) post(ctx context.Context, n etl.Notice, body []byte) error {
	header := http.Header{}
	header.Set("Content-Type", "application/json")
	header.Set("Idempotency-Key", n.Token)
	return call(ctx, s.transport, http.MethodPost, s.webhook, header, body)
}

// Heartbeat asks a dead-man service's URL once, to tell it that all goes on. Call it from the very
// work whose standstill must be noticed, and not when that work stands still. The error names the
// host only. Repeating is safe.
func (s *Sender) Heartbeat(ctx context.Context, rawURL string) error {
	u, err := checkURL(rawURL)
	if err != nil {
		return fmt.Errorf("alerts.heartbeat: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	if err := call(ctx, s.transport, http.MethodGet, u, http.Header{}, nil); err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	return nil
}

// call makes one request. Its errors name the host and nothing else of the URL.
func call(ctx context.Context, transport *http.Transport, method string, u *url.URL, header http.Header, body []byte) error {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), reader)
	if err != nil {
		return fmt.Errorf("%s %s: the URL makes no request", method, u.Host) // err would repeat it
	}
	req.Header = header
	req.Header.Set("User-Agent", "meterhouse")
	if u.User != nil {
		password, _ := u.User.Password()
		req.SetBasicAuth(u.User.Username(), password)
	}
	// RoundTrip and not http.Client: that reads where a redirect leads, and says it in its errors.
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("%s %s: %s", method, u.Host, reason(ctx, err))
	}
	defer resp.Body.Close()
	// The answer has nothing to say; some of it is read so that the receiver can end in peace.
	if _, err := io.CopyN(io.Discard, resp.Body, 64<<10); err != nil && !errors.Is(err, io.EOF) && resp.StatusCode/100 == 2 {
		return fmt.Errorf("%s %s: the answer broke off: %s", method, u.Host, reason(ctx, err))
	}
	switch {
	case resp.StatusCode/100 == 3:
		return fmt.Errorf("%s %s: status %d: redirects are not followed, set the URL that it leads to", method, u.Host, resp.StatusCode)
	case resp.StatusCode/100 != 2:
		return fmt.Errorf("%s %s: status %d, want 2xx", method, u.Host, resp.StatusCode)
	}
	return nil
}

// reason is why a request failed.
func reason(ctx context.Context, err error) string {
	switch ctxErr := ctx.Err(); {
	case errors.Is(ctxErr, context.DeadlineExceeded):
		return "no answer in time"
	case ctxErr != nil:
		return ctxErr.Error()
	}
	return err.Error()
}
