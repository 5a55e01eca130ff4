# nestbed. `make run` and `make test` set up everything they need; `make help` lists the rest.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

GO      ?= go
BIN     := bin/nestbed
RUNS    := results/runs
# The payload's bytes are part of every cell's identity: no path, no commit, no build id in them.
PAYLOAD_FLAGS := -trimpath -buildvcs=false -ldflags='-s -w -buildid='
SOURCES := $(shell find . \( -name '*.go' -o -name '*.yaml' -o -name '*.config' \) -not -path './results/runs/*') go.mod go.sum

.NOTPARALLEL:
.PHONY: help setup build payload run test test-all unit e2e built bench lint try clean

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## look for what is missing (QEMU, git, xz, ...) and install it with apt
	@.ci/setup

build: $(BIN) ## build bin/nestbed, guest agent and init inside

payload: images/payload/init images/payload/agent

images/payload/init: $(SOURCES)
	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 $(GO) build $(PAYLOAD_FLAGS) -o $@ ./images/init

images/payload/agent: $(SOURCES)
	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 $(GO) build $(PAYLOAD_FLAGS) -o $@ ./guestagent

$(BIN): payload $(SOURCES)
	CGO_ENABLED=0 $(GO) build -trimpath -o $@ ./harness/cmd/nestbed

run: setup build ## run the suite on a stock kernel and print verdicts (ARGS='...' for more)
	@$(BIN) run --output $(RUNS) $(ARGS)

try: build ## S=NAME: build, run one scenario on the default kernel, print its verdict
	@test -n "$(S)" || { echo "make try: which scenario? type: make try S=attach-group-container" >&2; exit 2; }
	@$(BIN) run --output $(RUNS) '$(S)' $(ARGS)

test: setup lint unit e2e built ## lint, unit tests with -race, end-to-end tests with real kernels

lint: ## gofmt, go vet, staticcheck
	@out=$$(gofmt -l $(filter %.go,$(SOURCES))); test -z "$$out" || { echo "gofmt would change: $$out" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) tool -modfile=tools/go.mod staticcheck ./...

unit: payload ## unit tests, no QEMU needed
	$(GO) test -race -short -timeout 10m ./...

e2e: payload ## end-to-end tests: real QEMU, real kernels
	$(GO) test -p 1 -timeout 40m -count=1 ./...

built: payload ## a patch series on a kernel that is built for it, once; the next time only what has changed
	NESTBED_BUILD=1 $(GO) test -timeout 60m -count=1 -run 'TestSeriesOfFour' ./harness/cmd/nestbed

test-all: test ## make test, the tier on every stock kernel and machine, every flavour of kernels built here, provoked reports
	NESTBED_ALL=1 $(GO) test -timeout 480m -count=1 -run 'TestTierEverywhere|TestFlavours|TestDetectEverywhere' ./harness/cmd/nestbed

bench: setup build ## ratios against bare QEMU, with a spinner beside
	$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 60m ./harness/bench

clean: ## remove what make build made; caches: nestbed cache prune
	rm -rf bin images/payload/init images/payload/agent
