.PHONY: demo test test-versions build bench ci fuzz

demo: ## both vendors, faked, into a private Postgres
	go run ./cmd/meterhouse demo

test: ## everything, against a real Postgres
	go test -timeout 30m ./...

test-versions: ## the packages that talk to Postgres, on 15, 16, 17 and 18
	bash .ci/test-versions

build: ## one static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/meterhouse ./cmd/meterhouse

BENCH =
bench: ## how fast, against Postgres itself and others: some 15 minutes, or BENCH=-quick; see docs/performance.md
	go run ./cmd/bench $(BENCH)

ci: ## what a change must pass
	bash .ci/run

FUZZTIME = 60s
fuzz: ## every fuzz target for FUZZTIME
	@grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r package; do \
		grep -rhoE --include='*_test.go' '^func Fuzz[A-Za-z]+' $$package/*_test.go | cut -d' ' -f2 | while read -r target; do \
			echo "$$package $$target"; \
			go test $$package -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) || exit 1; \
		done || exit 1; \
	done
