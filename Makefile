# What a newcomer needs: make demo, make test. CI runs .ci/run, which is make test.
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
REVISION := $(shell git rev-parse --short HEAD 2>/dev/null)
LDFLAGS := -X main.version=$(VERSION) -X main.revision=$(REVISION)
SLEEP ?= 10s
JOBS ?= 500
PKG ?= ./...
GOFUMPT := go run mvdan.cc/gofumpt@v0.12.0
STATICCHECK := go run honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: build image demo test test-engine soak lint bench fmt

build:
	CGO_ENABLED=0 go build -trimpath -ldflags "$(LDFLAGS)" -o bin/slipway ./cmd/slipway

image: build ## slipway:VERSION, to run Slipway in a container (docs/container.md)
	docker build --tag slipway:$(VERSION) .

demo: build ## watch a real job build and push an image, twice
	scripts/engine
	bin/slipway demo --sleep $(SLEEP) $(ARGS)

test: build lint ## everything, on a real Engine
	scripts/engine tests
	SLIPWAY_PLUGINS=$$(scripts/plugins) SLIPWAY_NEED_ENGINE=1 go test -race -count=1 -timeout 35m ./...

test-engine: ## the same tests on a Docker Engine of today, which is made and started for them; needs root
	scripts/engine tests
	find . -name go.mod -execdir go mod download ';' # there is no internet beside that Engine
	SLIPWAY_PLUGINS=$$(scripts/plugins) SLIPWAY_NEED_ENGINE=1 scripts/current-engine go test -p 1 -count=1 -timeout 60m $(PKG) $(ARGS)

soak: ## hundreds of jobs, while Slipway and its Engine are killed and restarted; nothing may be left
	scripts/engine tests
	SLIPWAY_NEED_ENGINE=1 SLIPWAY_SOAK=$(JOBS) go test -race -count=1 -timeout 60m -v -run 'TestSoak$$' ./internal/e2e

lint:
	@out=$$($(GOFUMPT) -l .) && test -z "$$out" || { echo "run make fmt:"; echo "$$out"; exit 1; }
	go vet ./...
	$(STATICCHECK) ./...

bench: build ## the figures of README, side by side with a hand-written minimum
	scripts/engine
	SLIPWAY_PLUGINS=$$(scripts/plugins) go run ./internal/bench -slipway bin/slipway $(ARGS)

fmt:
	$(GOFUMPT) -w .
