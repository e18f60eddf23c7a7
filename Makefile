# storefs. `make help` lists the targets.

GO        ?= go
TOOLS     := $(GO) tool -modfile=tools/go.mod
FUZZTIME  ?= 5s
JOBS      ?= 1000
CYCLES    ?= 10000
CHAOS     ?= 1h

export CGO_ENABLED ?= 0

# Tests send signals, and a job in the background is started with some of them
# ignored: not so the tests.
SIGNALS   := $(shell env --default-signal=HUP,INT,QUIT true 2>/dev/null && echo env --default-signal=HUP,INT,QUIT)

.PHONY: help build demo test deps lint race fuzz chaos bench bench-mount bench-engine fmt clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: bin/storefs ## bin/storefs

.PHONY: bin/storefs
bin/storefs:
	$(GO) build -trimpath -ldflags='-s -w' -o $@ ./cmd/storefs

demo: build ## build the Go standard library by running a program that needs it
	examples/gostd/demo bin/storefs

test: deps lint race fuzz ## everything: set-up, lint, race-tested suites, a short run of each fuzz target

deps: ## install what the tests need (Debian packages, as root)
	tools/deps

lint: ## gofumpt, vet, for arm64 too, staticcheck (import rules are a test in fstest)
	@unformatted=$$($(TOOLS) gofumpt -l $$(git ls-files -co --exclude-standard '*.go')); \
	  [ -z "$$unformatted" ] || { echo "not formatted (make fmt): $$unformatted"; exit 1; }
	$(GO) vet ./...
	GOARCH=arm64 CGO_ENABLED=0 $(GO) vet ./builder ./cmd/storefs
	$(TOOLS) staticcheck ./...

# Not from Go's cache (-count 1): tests build and run the program, which it does not see.
TEST      := env CGO_ENABLED=1 $(SIGNALS) $(TOOLS) gotestsum --format pkgname-and-test-fails -- -race -count 1 -timeout 12m

# The longest ones begin first, so that none of them ends long after the others.
LONGEST   := storefs/fs storefs/fstest storefs/builder storefs/db
OTHERS    := $$($(GO) list ./... | grep -vxF "$$(printf '%s\n' $(LONGEST))")

# Who cannot give package fs a mount namespace of its own (tools/testexec) has it
# tested first, alone.
PRIVATE   := $(shell unshare -m --propagation private true 2>/dev/null && echo unshare -m --propagation private)

race: ## all tests with the race detector
ifneq ($(PRIVATE),)
	$(TEST) -p 2 -exec '$(CURDIR)/tools/testexec' $(LONGEST) $(OTHERS)
else
	$(TEST) ./fs
	$(TEST) -p 2 $(filter-out storefs/fs,$(LONGEST)) $(OTHERS)
endif

fuzz: ## each fuzz target for FUZZTIME (5s)
	GO='$(GO)' FUZZTIME='$(FUZZTIME)' tools/fuzz

chaos: ## servers killed and upgraded under a mixed load for CHAOS (1h; make test does it for half a minute), or KILLS=1000 times; CYCLES (10000) of touch and delete (as root)
	STOREFS_CHAOS='$(CHAOS)' STOREFS_KILLS='$(KILLS)' $(PRIVATE) $(GO) test ./fstest -run TestChaos -count 1 -v -timeout 0
	STOREFS_CYCLES='$(CYCLES)' $(PRIVATE) $(GO) test ./fstest -run TestRealiseDeleteCycles -count 1 -v -timeout 0

bench: build ## speed, as ratios to peers measured in the same run
	$(GO) run ./fstest/bench -storefs bin/storefs

bench-mount: build ## the mount beside ext4, bindfs and a go-fuse loopback; a million paths (as root: drops the system's caches)
	$(GO) run ./fstest/bench -storefs bin/storefs -only mount,million,promotion

bench-engine: build ## sandboxes beside bubblewrap, builds beside ninja, Nix and make, registration beside SQLite, ingest beside SHA-256; JOBS=10000 for larger graphs (as root)
	$(GO) run ./fstest/bench -storefs bin/storefs -only sandbox,engine,gostd -jobs $(JOBS)
	$(GO) test ./normaliser -run 'TestMakespan|TestManyGoals' -v -count 1

fmt: ## format the Go files
	$(TOOLS) gofumpt -w $$(git ls-files -co --exclude-standard '*.go')

clean: ## remove what was built here
	rm -rf bin .bench
