package warehousetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"github.com/testcontainers/testcontainers-go"
	tclog "github.com/testcontainers/testcontainers-go/log"
	"github.com/testcontainers/testcontainers-go/modules/postgres"

	"meterhouse/etl/localpg"
)

// An engine that does not answer in this time is taken for absent.
const enginePatience = 10 * time.Second

// container starts the official image of the release that a download would be. Whatever goes wrong
// sends the climb on: an engine without a network cannot get the image, and that is nobody's fault.
func container(ctx context.Context, w wish) (*server, error) {
	tclog.SetDefault(tclog.NewNoopLogger()) // one line says it all, and it is ours
	if err := engine(ctx); err != nil {
		return nil, notHere{"no container engine is healthy", "no healthy engine: " + strings.ReplaceAll(err.Error(), "\n", "; ")}
	}
	image := "postgres:" + localpg.Release(w.major)
	c, err := postgres.Run(ctx, image, postgres.BasicWaitStrategies(),
		postgres.WithUsername(localpg.User), postgres.WithPassword(rand.Text()), postgres.WithDatabase("postgres"),
		testcontainers.WithEnv(map[string]string{"POSTGRES_INITDB_ARGS": "--locale=C --encoding=UTF8"}),
		testcontainers.WithCmd("postgres", "-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off"))
	stop := func() error {
		if c == nil {
			return nil
		}
		return testcontainers.TerminateContainer(c, testcontainers.StopTimeout(time.Second))
	}
	if err == nil {
		var url string
		if url, err = c.ConnectionString(ctx, "sslmode=disable"); err == nil {
			return &server{url: url, about: "a container of " + image, stop: stop}, nil
		}
	}
	if left := stop(); left != nil {
		err = fmt.Errorf("%w, and the container stays: %w", err, left)
	}
	return nil, notHere{"no container of " + image, fmt.Sprintf("%s: %v", image, err)}
}

// engine says what is wrong with Docker, Podman or what else answers to their API, nil when it is
// healthy. The library looks for it without a deadline, so we do not wait for the library.
func engine(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, enginePatience)
	defer cancel()
	healthy := make(chan error, 1)
	go func() {
		provider, err := testcontainers.ProviderDefault.GetProvider()
		if err == nil {
			err = provider.Health(ctx)
		}
		healthy <- err
	}()
	select {
	case err := <-healthy:
		return err
	case <-ctx.Done():
		return fmt.Errorf("no answer: %w", ctx.Err())
	}
}
