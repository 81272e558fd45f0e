.PHONY: demo test build ci fuzz

demo: ## both vendors, faked, into a private Postgres
	go run ./cmd/meterhouse demo

test: ## everything, against a real Postgres
	go test ./...

build: ## one static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/meterhouse ./cmd/meterhouse

ci: ## what a change must pass
	bash .ci/run

fuzz: ## a minute per parser
	go test ./etl -run '^$$' -fuzz FuzzParseDecimal -fuzztime 60s
