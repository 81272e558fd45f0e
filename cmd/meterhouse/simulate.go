package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"meterhouse/etl"
	"meterhouse/etl/keystone/keystonesim"
	"meterhouse/etl/wolkvox/wolkvoxsim"
)

func (a *app) simulateCommand() *cobra.Command {
	var listen string
	var seed uint64
	var days int
	var faults []string
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "Run both fake vendors as a server on this machine",
		Long: `Serves a fake Keystone and a fake wolkvox on one loopback port until interrupted, and prints a
configuration that uses them. Nothing in it is real, the tokens neither. Tokens of an earlier
simulate with the same seed stay good. The fakes follow --now.

Faults: keystone:WHAT[:WHERE[:OPTIONS]], such as keystone:504:history:count=2, or
wolkvox:KIND [WORDS], such as "wolkvox:slow delay=90s api=vision count=1".`,
		Example: "  meterhouse simulate --listen 127.0.0.1:8099 > sim.yaml &\n" +
			"  meterhouse --config sim.yaml migrate up && meterhouse --config sim.yaml run",
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if days < 1 || days > 3660 {
				return usagef("--days %d: want 1 to 3660", days)
			}
			host, _, err := net.SplitHostPort(listen)
			if err != nil || !isLoopback(host) {
				return usagef("--listen %q: want an address of this machine only, such as 127.0.0.1:8099", listen)
			}
			sims := newSims(a.now, seed, days)
			for _, text := range faults {
				if err := sims.inject(text); err != nil {
					return err
				}
			}
			url, wait, err := sims.serve(cmd.Context(), listen)
			if err != nil {
				return err
			}
			fmt.Fprint(a.stdout, sims.configText(url))
			a.log.Info("fake vendors are up", "url", url, "seed", seed)
			return wait()
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "`address` to listen on; port 0 takes a free one")
	cmd.Flags().Uint64Var(&seed, "seed", 1, "`number` that decides all figures")
	cmd.Flags().IntVar(&days, "days", 120, "`number` of days of history before now")
	cmd.Flags().StringArrayVar(&faults, "fault", nil, "`fault` to inject; may be repeated")
	return cmd
}

// sims are both fake vendors behind one address: their paths do not meet.
type sims struct {
	keystone *keystonesim.Sim
	wolkvox  *wolkvoxsim.Sim
	seed     uint64
	start    etl.Day
}

const simZone = "America/Bogota"

func newSims(now func() time.Time, seed uint64, days int) *sims {
	start := etl.DayOf(now().UTC()) - etl.Day(days)
	return &sims{
		keystone: keystonesim.New(keystonesim.Config{Seed: seed, Now: now, Start: start.Time(), Lenient: true}),
		wolkvox:  wolkvoxsim.New(wolkvoxsim.Config{Seed: seed, Now: now}),
		seed:     seed, start: start,
	}
}

func (s *sims) inject(text string) error {
	vendor, fault, _ := strings.Cut(text, ":")
	switch vendor {
	case "keystone":
		f, err := keystonesim.ParseFault(fault)
		if err != nil {
			return usagef("--fault %q: %w", text, err)
		}
		s.keystone.Inject(f)
	case "wolkvox":
		f, err := wolkvoxsim.ParseFault(fault)
		if err != nil {
			return usagef("--fault %q: %w", text, err)
		}
		s.wolkvox.Inject(f)
	default:
		return usagef("--fault %q: want keystone:… or wolkvox:…", text)
	}
	return nil
}

// serve listens until ctx ends; wait returns when all is closed.
func (s *sims) serve(ctx context.Context, address string) (url string, wait func() error, err error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/", s.keystone)
	mux.Handle("/api/", s.wolkvox)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	return "http://" + listener.Addr().String(), func() error {
		defer stop()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}, nil
}

// configText is a configuration that uses the fakes at url.
func (s *sims) configText(url string) string {
	key := sha256.Sum256(fmt.Appendf(nil, "meterhouse simulate %d", s.seed))
	return fmt.Sprintf(`# Fake vendors of meterhouse simulate. Nothing here is real.
# local is this user's private Postgres: set METERHOUSE_DATABASE_URL to load into another database.
database:
  url: local
secrets_key: %s
keystone:
  - account: sim
    base_url: %s
    refresh_token: %s
    history: {start: %s}
wolkvox:
  - account: simcall
    server: "0039"
    base_url: %s
    token: %s
    timezone: %s
`, base64.StdEncoding.EncodeToString(key[:]), url, s.keystone.RefreshToken(), s.start, url, s.wolkvox.Token(), simZone)
}
