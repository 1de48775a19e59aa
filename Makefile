# make demo    try it: a server with a simulated fleet
# make test    everything that must pass
# make check   the part of it that runs no tests
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.NOTPARALLEL:

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
COMMIT  := $(shell git rev-parse --short=12 HEAD 2>/dev/null)
LDFLAGS := -s -w -X main.releaseVersion=$(VERSION) -X main.releaseCommit=$(COMMIT)
LINT    := go tool -modfile=tools/go.mod golangci-lint

.PHONY: build
build: ## The program, as bin/signalbox
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/signalbox ./cmd/signalbox

.PHONY: page
page: ## The web page, as internal/ui/dist, where its source is newer
	scripts/page.sh build

.PHONY: run
run: build ## The server with its defaults
	bin/signalbox serve

.PHONY: demo
demo: build ## The server with a simulated fleet, and what to type
	scripts/demo.sh

.PHONY: setup
setup: ## Debian packages that the tests use
	scripts/setup-debian.sh

.PHONY: test
test: setup check build ## Everything
	go test -count=1 ./internal/rotation # what is too long for the race detector
	go test -count=1 -run TestLimitsOnEveryRoute ./internal/web # likewise
	go test -race -count=1 -p 3 -parallel 4 -timeout 35m ./... # what e2e builds and runs is no part of what go test caches by
	scripts/page.sh browser

.PHONY: check
check: ## Everything but the tests
	scripts/check-format.sh
	go vet ./...
	$(LINT) run
	go test -count=1 ./internal
	go mod tidy -diff
	scripts/check-generated.sh
	scripts/page.sh check

.PHONY: generate
generate: ## Write the generated files
	go generate ./...

.PHONY: bench
bench: ## Ratios to a floor that is measured in the same run
	go run ./bench
	go run ./bench/history
	go run ./bench/access
	go run ./bench/rotation
	go run ./bench/gateway

.PHONY: fuzz
fuzz: ## Each fuzz test for FUZZTIME (default 30s)
	scripts/fuzz.sh

.PHONY: clean
clean:
	rm -rf bin

.PHONY: help
help: ## This list
	@sed -nE 's/^([a-z]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12
