package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// What serve --probe can ask, and where.
const (
	probeReady = "ready"
	probeLive  = "live"
)

var probes = []string{probeReady, probeLive}

var probePaths = map[string]string{probeReady: "/readyz", probeLive: "/healthz"}

// probeTimeout is longer than a readiness takes to be found out, and shorter than the health checks
// that docs/install gives it.
const probeTimeout = 4 * time.Second

// probe asks the serve of this machine whether it is ready, or lives. It opens no database, so that it
// costs as little as its caller hopes.
func (a *app) probe(ctx context.Context, what string) error {
	path, known := probePaths[what]
	if !known {
		return usagef("--probe=%s: want %s", what, oneOf(probes))
	}
	cfg, err := a.loadConfig(need{})
	if err != nil {
		return err
	}
	host, err := probeHost(cfg.Console.Listen)
	if err != nil {
		return usagef("--probe: console.listen %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	address := (&url.URL{Scheme: "http", Host: host, Path: path}).String()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	// Neither a proxy nor another place: the one process that was meant.
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(req)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("probe %s: no answer within %s", address, probeTimeout)
	} else if err != nil {
		return fmt.Errorf("probe %s: %w: is serve running on this machine?", address, err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusOK {
		return nil
	}
	reason, _ := io.ReadAll(io.LimitReader(res.Body, 512)) // what came of it is good enough
	return fmt.Errorf("probe %s: got %d %q, want 200", address, res.StatusCode, strings.TrimSpace(string(reason)))
}

// probeHost is where to ask a server of this machine that listens at listen: an address that stands for
// all of them answers on the loopback too.
func probeHost(listen string) (string, error) {
	if listen == "" {
		return "", errors.New("is empty: serve answers nobody; want host:port")
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("%q: want host:port", listen)
	}
	if port == "" || port == "0" {
		return "", fmt.Errorf("%q: any free port, so nobody can tell which: want a port", listen)
	}
	if addr, err := netip.ParseAddr(host); host == "" || err == nil && addr.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}
