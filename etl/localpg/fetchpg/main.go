// Fetchpg prints the folder that holds the server programs of one PostgreSQL major, and downloads them first when the
// cache lacks them:
//
//	PATH=$(go run ./etl/localpg/fetchpg 18):$PATH go test ./...
//
// METERHOUSE_POSTGRES_REPOSITORY names another Maven repository. Exit codes: 0 done, 1 failed, 2 wrong use, 75 the
// repository cannot be reached. It is for scripts of this repository and no part of the meterhouse binary.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"meterhouse/etl/localpg"
)

func main() {
	if len(os.Args) != 2 {
		fail(2, errors.New("want one argument, the PostgreSQL major: 15 to 18"))
	}
	major, err := strconv.Atoi(os.Args[1])
	if err != nil || localpg.Release(major) == "" || major == 0 {
		fail(2, fmt.Errorf("%q: want a PostgreSQL major, 15 to 18", os.Args[1]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	binaries, err := localpg.Download{
		Repository: os.Getenv("METERHOUSE_POSTGRES_REPOSITORY"),
		Notice:     func(line string) { fmt.Fprintln(os.Stderr, line) },
	}.Find(ctx, major)
	switch {
	case errors.Is(err, localpg.ErrUnreachable):
		fail(75, err)
	case err != nil:
		fail(1, err)
	}
	fmt.Println(binaries.Dir)
}

func fail(code int, err error) {
	fmt.Fprintf(os.Stderr, "fetchpg: %v\n", err)
	os.Exit(code)
}
