package fetch

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/internal/killpoint"
)

// Config of a Client. The zero value of a field means its default.
type Config struct {
	Proxy     string           // URL of a proxy; default: none. Never taken from the environment
	CAFile    string           // PEM file of roots trusted beside those of the system
	Timeout   time.Duration    // of a whole exchange; default 60 s
	MaxBody   int64            // bytes of a body after decompression; default 256 MiB
	KeepAlive bool             // reuse connections
	Now       func() time.Time // business clock; default time.Now
	Wall      func() time.Time // this machine's clock, with which the vendor's is compared; default time.Now
	SpoolDir  string           // for bodies beyond 4 MiB; default os.TempDir
}

// Limits of an exchange. Tests of this package shorten the times.
const (
	defaultTimeout = 60 * time.Second
	headerTimeout  = 30 * time.Second
	dialTimeout    = 10 * time.Second
	defaultMaxBody = 256 << 20
	// The limit of 64 kB for headers, with room to tell headers of just that size that then stop
	// (a time-out) from headers that go on.
	maxHeaderBytes = 64<<10 + 4<<10
	maxErrorBody   = 1 << 20 // of an answer that is no success: evidence, not data
)

// Client makes exchanges. It is safe for concurrent use.
type Client struct {
	cfg       Config
	transport *http.Transport
}

// New checks the configuration and reads the CA file.
func New(cfg Config) (*Client, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = defaultMaxBody
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Wall == nil {
		cfg.Wall = time.Now
	}
	if cfg.Timeout < 0 || cfg.MaxBody < 0 {
		return nil, fmt.Errorf("http: timeout %s and max_body %d: want positive values", cfg.Timeout, cfg.MaxBody)
	}
	transport := &http.Transport{
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    dialTimeout,
		ResponseHeaderTimeout:  min(headerTimeout, cfg.Timeout),
		MaxResponseHeaderBytes: maxHeaderBytes,
		DisableKeepAlives:      !cfg.KeepAlive,
		DisableCompression:     true, // we ask for gzip and bound it ourselves
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        30 * time.Second,
		DialContext:            dialGuarded,
		Protocols:              new(http.Protocols),
	}
	transport.Protocols.SetHTTP1(true) // what the guards against silent repeats are written for
	if cfg.Proxy != "" {
		proxy, err := url.Parse(cfg.Proxy)
		if err != nil || proxy.Host == "" || proxy.Scheme != "http" && proxy.Scheme != "https" && proxy.Scheme != "socks5" {
			return nil, errors.New("http.proxy: want a URL such as http://proxy.example:3128")
		}
		transport.Proxy = http.ProxyURL(proxy)
		// What is dialled is the proxy, and that is an inner address by nature.
		transport.DialContext = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	if cfg.CAFile != "" {
		roots, err := Roots(cfg.CAFile)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	return &Client{cfg: cfg, transport: transport}, nil
}

// Roots are the certificates that the system trusts, and those of a PEM file.
func Roots(caFile string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("http.ca_file: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("http.ca_file %s: no certificate in it, want PEM", caFile)
	}
	return roots, nil
}

// CheckBaseURL parses a vendor's base URL: https, or http to a loopback host; no credentials, no
// query, no fragment.
func CheckBaseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("base URL: not a URL, want https://host") // url's error would repeat the text
	}
	got := u.Redacted()
	switch {
	case u.User != nil:
		return nil, fmt.Errorf("base URL %q has credentials in it, want none", got)
	case u.Hostname() == "" || u.Opaque != "":
		return nil, fmt.Errorf("base URL %q has no host, want https://host", got)
	case u.RawQuery != "" || u.ForceQuery:
		return nil, fmt.Errorf("base URL %q has a query, want none", got)
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return nil, fmt.Errorf("base URL %q has a fragment, want none", got)
	case u.Scheme == "https":
	case u.Scheme == "http" && IsLoopback(u.Hostname()):
	default:
		return nil, fmt.Errorf("base URL %q: want https, or http to a loopback host", got)
	}
	if u.Path == "" {
		u.Path = "/" // or JoinPath makes a request line without a leading slash
	}
	return u, nil
}

// IsLoopback tells that a host, without a port, is this machine by its very name.
func IsLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// errInnerAddress refuses a connection before a byte is sent.
var errInnerAddress = errors.New("the host's name resolves to an inner address")

// dialGuarded dials like net.Dialer, but a host that is a name must resolve to the public network:
// else whoever answers for the name could point our credentials at a metadata service or an inner
// host. The check is made on the address dialled, so a second resolution cannot slip past it.
func dialGuarded(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err != nil { // a name
		local := host == "localhost"
		dialer.Control = func(_, resolved string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(resolved)
			if err != nil {
				return err
			}
			if addr := ap.Addr().Unmap(); local != addr.IsLoopback() || !local && !isPublic(addr) {
				return errInnerAddress
			}
			return nil
		}
	}
	return dialer.DialContext(ctx, network, address)
}

var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // carriers' inner network
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("2002::/16"),
}

// nat64 wraps IPv4 addresses where a network has IPv6 only; the wrapped address counts.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

func isPublic(addr netip.Addr) bool {
	if nat64.Contains(addr) {
		wrapped := addr.As16()
		addr = netip.AddrFrom4([4]byte(wrapped[12:]))
	}
	if !addr.IsGlobalUnicast() || addr.IsPrivate() {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(addr) {
			return false
		}
	}
	return true
}

// Call is one request. Header names are sent as they are spelled.
type Call struct {
	Method string
	URL    *url.URL
	Header http.Header
	Body   []byte
	Token  bool   // an exchange of a refresh token: counted as such, whatever becomes of it
	Secret string // what no answer may repeat: it is starred out of the body before anybody hashes, keeps or reads it
	// Varying are names of members whose values differ from answer to answer and mean nothing.
	Varying []string
}

// Result is what came back. Beside an error it tells what is known: Sent always, the rest as far
// as the exchange got; Body may then be nil.
type Result struct {
	Status      int
	Header      http.Header // of the few headers that are safe and useful
	ContentType string
	RequestedAt time.Time // business clock
	FetchedAt   time.Time // business clock
	Body        etl.Body  // whole when the error is nil and Status is a success; the receiver closes it
	Warnings    etl.Warnings
	// Content is SHA-256 of the body but for the values of the members that the call named as varying; nil
	// when it named none. Bodies of equal content say the same.
	Content []byte
	// Sent says that a connection stood, so the vendor may have seen the request. Only false is
	// certain.
	Sent bool

	calls *etl.Calls // of the run it was made for
	class string     // as which it is counted there
}

// Became counts the call as what its answer was read as, in place of what its status alone says, and
// returns err. Whoever reads answers by more than their status says so here.
func (r *Result) Became(err error) error {
	if r != nil && r.class != "" && r.class != etl.CallToken {
		class := etl.ClassOf(err)
		r.calls.Move(r.class, class)
		r.class = class
	}
	return err
}

// LooksLikeJSON tells whether the body begins and ends as an object or an array does, blanks and a
// byte order mark aside. What is between is not read.
func (r *Result) LooksLikeJSON() bool {
	b, ok := r.Body.(*body)
	return ok && (b.ends == ends{'{', '}'} || b.ends == ends{'[', ']'})
}

var keptHeaders = []string{"Content-Type", "Content-Encoding", "Date", "Retry-After", "X-Request-Id", "X-Amzn-Requestid"}

// Do makes one attempt: at most one request reaches the vendor. Any status but a redirect is a
// result; the caller reads it, for instance with [Status]. The error is an *Error, or the
// context's own when ctx ended. The run that ctx works for counts the attempt, by error and status;
// see [Result.Became].
func (c *Client) Do(ctx context.Context, call Call) (*Result, error) {
	res := &Result{RequestedAt: c.cfg.Now().UTC(), Warnings: etl.Warnings{}}
	exchange, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()

	var sent atomic.Bool
	req, err := c.request(exchange, call, &sent)
	if err != nil {
		return res, err // nobody was asked
	}
	err = c.exchange(ctx, call, req, &sent, res)
	res.calls, res.class = etl.CallsOf(ctx), etl.CallToken
	switch {
	case call.Token:
	case err != nil && ctx.Err() != nil:
		res.class = etl.CallCanceled
	case err != nil:
		res.class = etl.ClassOf(err)
	default:
		res.class = etl.ClassOf(Status(res))
	}
	etl.CountCall(ctx, res.class)
	return res, err
}

// exchange sends req and fills res with what comes back.
func (c *Client) exchange(ctx context.Context, call Call, req *http.Request, sent *atomic.Bool, res *Result) error {
	// RoundTrip and not http.Client: it has no way to follow a redirect.
	sending := c.cfg.Wall()
	resp, err := c.transport.RoundTrip(req)
	res.Sent = sent.Load()
	if err != nil {
		return c.classify(ctx, call, res.Sent, err)
	}
	defer resp.Body.Close()
	if skew := clockSkew(resp.Header, sending, c.cfg.Wall()); skew.Abs() > maxClockSkew && !call.Token {
		res.Warnings.Add(etl.VendorClockSkewed, spelledSkew(call.URL.Host, skew))
	}

	res.Status = resp.StatusCode
	res.ContentType = strings.ToValidUTF8(resp.Header.Get("Content-Type"), "\ufffd") // it is stored as text
	res.Header = http.Header{}
	for _, name := range keptHeaders {
		if values := resp.Header.Values(name); len(values) > 0 {
			res.Header[name] = values
		}
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return refuse("redirect", etl.ErrContract, "%s %s: status %d: redirects are not followed", call.Method, call.URL.Path, resp.StatusCode)
	}
	success := resp.StatusCode < 300
	if success && !isJSON(res.ContentType) {
		res.Warnings.Add("content_type_unexpected", "")
	}
	limit := c.cfg.MaxBody
	if !success {
		limit = min(limit, maxErrorBody)
	}
	body, content, err := c.receive(resp, limit, success, call)
	res.FetchedAt = c.cfg.Now().UTC()
	if body != nil {
		res.Body, res.Content = body, content
	}
	if err != nil {
		return c.classify(ctx, call, true, err)
	}
	killpoint.Here(killpoint.BodyRead)
	return nil
}

func (c *Client) request(ctx context.Context, call Call, sent *atomic.Bool) (*http.Request, error) {
	trace := &httptrace.ClientTrace{
		GotConn:              func(httptrace.GotConnInfo) { sent.Store(true) },
		WroteRequest:         func(httptrace.WroteRequestInfo) { killpoint.Here(killpoint.RequestWritten) },
		GotFirstResponseByte: func() { killpoint.Here(killpoint.FirstByte) },
	}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), call.Method, "", nil)
	if err != nil {
		return nil, refuse("request_invalid", etl.ErrContract, "method %q", call.Method)
	}
	req.URL, req.Host = call.URL, call.URL.Host
	for name, values := range call.Header {
		for _, v := range values {
			if strings.ContainsFunc(v, func(c rune) bool { return c < ' ' || c >= 0x7f }) {
				return nil, refuse("request_invalid", etl.ErrContract, "header %s holds other than visible ASCII", name)
			}
		}
		req.Header[name] = values
	}
	req.Header.Set("Accept-Encoding", "gzip")
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "meterhouse")
	}
	// A body without GetBody, even an empty one, is what keeps net/http from sending a request
	// again by itself: it takes it for one that cannot be replayed.
	req.Body = io.NopCloser(bytes.NewReader(call.Body))
	req.ContentLength = int64(len(call.Body))
	return req, nil
}

func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == "application/json" || media == "text/json" || strings.HasSuffix(media, "+json"))
}
