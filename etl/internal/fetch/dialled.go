package fetch

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
)

// errDialledOnce refuses a second connection where one was made ahead.
var errDialledOnce = errors.New("the connection made ahead was used already")

// Dialled connects to the host of target ahead of the one exchange that the returned client is good
// for, TLS handshake included: between its call and the request nothing is left to wait for. The
// client must be hung up, used or not. Through a proxy nothing can be made ahead, and the client is c.
func (c *Client) Dialled(ctx context.Context, target *url.URL) (once *Client, hangUp func(), err error) {
	if c.cfg.Proxy != "" {
		return c, func() {}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	port := target.Port()
	if port == "" {
		port = target.Scheme // https and http are names of ports too
	}
	conn, err := c.transport.DialContext(ctx, "tcp", net.JoinHostPort(target.Hostname(), port))
	if err != nil {
		return nil, nil, err
	}
	if target.Scheme == "https" {
		settings := c.transport.TLSClientConfig.Clone()
		settings.ServerName, settings.NextProtos = target.Hostname(), []string{"http/1.1"}
		secured := tls.Client(conn, settings)
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, nil, errors.Join(err, conn.Close())
		}
		conn = secured
	}
	var taken atomic.Bool
	take := func(context.Context, string, string) (net.Conn, error) {
		if taken.Swap(true) {
			return nil, errDialledOnce
		}
		return conn, nil
	}
	transport := c.transport.Clone()
	transport.DialContext, transport.DialTLSContext = take, take
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP1(true)
	return &Client{cfg: c.cfg, transport: transport}, func() { _ = conn.Close() }, nil
}
