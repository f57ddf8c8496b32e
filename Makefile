# SPDX-License-Identifier: Apache-2.0

SHELL         := /bin/bash
.SHELLFLAGS   := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS     += --no-print-directory

# A semantic version: the framework parses it.
VERSION   ?= $(shell git describe --tags --exact-match 2>/dev/null || echo v0.0.0-dev+$$(git describe --always --dirty 2>/dev/null || echo unknown))
HOSTARCH  := $(shell go env GOHOSTARCH 2>/dev/null)
GOARCH    ?= $(HOSTARCH)
# Native programs go to bin/, those of another architecture below it.
OUT       := bin$(if $(filter-out $(HOSTARCH),$(GOARCH)),/linux-$(GOARCH))
LDFLAGS   := -s -w -X k8s.io/component-base/version.gitVersion=$(VERSION)
# One set of flags for programs, tests and the lab's Kubernetes: Go's build cache then
# compiles each package once. Only the race detector needs its own.
# Without grpcnotrace the agent links html/template by way of gobgp's gRPC, and the linker
# keeps all of client-go: twice the size.
TAGS      := grpcnotrace
BUILD     := CGO_ENABLED=0 go build -trimpath -tags $(TAGS)
GOTEST    := CGO_ENABLED=0 go test -trimpath
# Bytes that the agent's program may have: a third more than it needs.
AGENT_MAX := 60000000
TOOL      := go tool -modfile=test/tools/go.mod

LAB_STATE ?= $(or $(XDG_STATE_HOME),$(HOME)/.local/state)/fairlead-lab
LAB_ARGS  ?=
BENCH     ?= failover
SOAK      ?= controller
RUNS      ?=
IMAGE_TAG ?= dev

# Packages whose tests are cheap enough for the race detector, and the others. Each start of
# a gobgp server sets variables of its package, to what they are already; the detector minds.
GOBGP      := ./nodeagent/internal/announce/bgp
RACE_PKGS   = ./cmd/... ./loadbalancer/... ./provider/... $(shell go list ./nodeagent/... | grep -v '/announce/bgp$$')
OTHER_PKGS := ./test/... $(GOBGP)

##@ General

.PHONY: help
help: ## Show this list.
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@/ {printf "\n\033[1m%s\033[0m\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## Install the Debian packages that the lab and the tests need (missing ones only).
	@test/tools/deps.sh

.PHONY: clean
clean: ## Remove what was built here (the lab's cache outside the work tree stays).
	rm -rf bin

##@ Build

.PHONY: build
build: ## Build controller, node agent, plugin and lab into bin/ (GOARCH=arm64 cross-compiles).
	GOOS=linux GOARCH=$(GOARCH) $(BUILD) -ldflags "$(LDFLAGS)" -o $(OUT)/fairlead-cloud-controller-manager ./cmd/fairlead-cloud-controller-manager
	GOOS=linux GOARCH=$(GOARCH) $(BUILD) -ldflags "$(LDFLAGS)" -o $(OUT)/fairlead-node-agent ./cmd/fairlead-node-agent
	GOOS=linux GOARCH=$(GOARCH) $(BUILD) -ldflags "$(LDFLAGS)" -o $(OUT)/kubectl-fairlead ./cmd/kubectl-fairlead
	GOOS=linux GOARCH=$(GOARCH) $(BUILD) -ldflags "$(LDFLAGS)" -o $(OUT)/fairlead-lab ./test/lab/cmd/fairlead-lab

.PHONY: lab
lab: ## Build only the lab's program, bin/fairlead-lab.
	@$(BUILD) -o bin/fairlead-lab ./test/lab/cmd/fairlead-lab

.PHONY: image
image: ## Build both images: with Docker where it works, else with the lab's builder into bin/.
	@if docker info >/dev/null 2>&1; then \
	  for target in controller node-agent; do \
	    docker build --build-arg VERSION=$(VERSION) --target $$target -t fairlead.dev/fairlead-$$target:$(IMAGE_TAG) .; \
	  done; \
	else \
	  echo "no Docker daemon here: building archives with fairlead-lab"; \
	  $(MAKE) lab; \
	  for target in controller node-agent; do \
	    bin/fairlead-lab image --target $$target -t fairlead.dev/fairlead-$$target:$(IMAGE_TAG) -o bin/fairlead-$$target.tar; \
	  done; \
	fi

##@ Try it

.PHONY: demo
demo: deps ## Start a real cluster in network namespaces and walk through the tutorial, its IPVS part on a kernel that has it (root).
	@$(BUILD) -o bin/fairlead-demo ./test/demo
	@bin/fairlead-demo

.PHONY: lab-up
lab-up: deps lab ## Start a lab with Fairlead and keep it (LAB_STATE, LAB_ARGS="--nodes 2").
	bin/fairlead-lab up --state-dir $(LAB_STATE) $(LAB_ARGS)

.PHONY: lab-down
lab-down: lab ## Stop that lab and remove all of it.
	bin/fairlead-lab down --state-dir $(LAB_STATE)

##@ Test

.PHONY: test
test: deps test-unit test-kernel test-e2e ## Everything: unit, kernel and end-to-end tests (root).

.PHONY: test-unit
test-unit: ## Unit tests, with the race detector where it is cheap. No root, no network.
	go test -race $(RACE_PKGS)
	$(GOTEST) $(OTHER_PKGS)

.PHONY: test-kernel
test-kernel: ## Tests on a real kernel: network namespaces, and what needs ip_vs, here or in a small virtual machine (root).
	$(GOTEST) -tags kernel -count=1 ./nodeagent/... ./test/netns/... ./test/lab/cluster/...
	@$(MAKE) test-machine
	@$(MAKE) test-ipvs

.PHONY: test-machine
test-machine: ## Only the tests of that virtual machine itself; none where this kernel has ip_vs, because nothing runs in it there.
	@$(BUILD) -o bin/fairlead-vm ./test/vm/cmd/fairlead-vm
	@if bin/fairlead-vm probe; then \
	  echo "==> NOT TESTED: the small virtual machine, which nothing here needs"; \
	else \
	  $(GOTEST) -tags kernel -count=1 ./test/vm/...; \
	fi

.PHONY: test-ipvs
test-ipvs: build ## Only the tests that need ip_vs: files tagged ipvs (PKG=./path and TEST=PATTERN for some of them).
	@bin/fairlead-lab build
	@$(BUILD) -o bin/fairlead-vm ./test/vm/cmd/fairlead-vm
	@bin/fairlead-vm test $(if $(TEST),-run '$(TEST)') $(or $(PKG),./nodeagent/... ./test/...)

.PHONY: test-e2e
test-e2e: ## Each behaviour once, on a lab cluster (root).
	$(GOTEST) -tags e2e -count=1 -p 2 -timeout 10m -v ./test/lab/cmd/... ./test/harness/rig/...
	$(GOTEST) -tags e2e -count=1 -timeout 20m -v ./test/e2e/...

.PHONY: bench
bench: deps lab ## Measure: BENCH=bgp on a rig of agents with FRR and BIRD, failover on a lab, ipam on a control plane, ipvs on a kernel that has it, l2-failover, l2-rollout, l2-arp, l2-gossip or l2-all on a rig of agents (RUNS=30).
	@$(BUILD) -o bin/fairlead-bench ./test/bench
	bin/fairlead-bench -bench $(BENCH) $(if $(RUNS),-runs $(RUNS))

.PHONY: soak
soak: deps build ## Repeat with full counts and write a result file: SOAK=bgp, controller, failover, ipam, l2 or ipvs.
	@bin/fairlead-lab build
	@$(BUILD) -o bin/fairlead-soak ./test/soak
	@$(BUILD) -o bin/fairlead-vm ./test/vm/cmd/fairlead-vm
	bin/fairlead-soak -soak $(SOAK) $(if $(RUNS),-runs $(RUNS))

##@ Develop

.PHONY: fmt
fmt: ## Format the Go code.
	$(TOOL) golangci-lint fmt

.PHONY: lint
lint: ## Run the linters (the first run builds golangci-lint).
	$(TOOL) golangci-lint run --build-tags kernel,e2e,ipvs

.PHONY: generate
generate: ## Generate the deepcopy functions of the API.
	$(TOOL) controller-gen object paths=./loadbalancer/api/...

.PHONY: manifests
manifests: ## Generate the CRDs in deploy/crds.
	$(TOOL) controller-gen crd paths=./loadbalancer/api/... output:crd:dir=deploy/crds

.PHONY: verify
verify: ## Fail if a generated file or go.mod is not current.
	@$(MAKE) generate manifests
	go mod tidy -diff
	@changed=$$(git status --porcelain -- deploy/crds loadbalancer/api); \
	if [ -n "$$changed" ]; then \
	  echo "generated files are not current; run: make generate manifests"; \
	  git --no-pager diff -- deploy/crds loadbalancer/api; echo "$$changed"; exit 1; \
	fi
	@GOOS=linux GOARCH=$(GOARCH) $(BUILD) -ldflags "$(LDFLAGS)" -o $(OUT)/fairlead-node-agent ./cmd/fairlead-node-agent
	@size=$$(stat -c %s $(OUT)/fairlead-node-agent); \
	if [ "$$size" -gt $(AGENT_MAX) ]; then \
	  echo "the node agent has $$size bytes, more than $(AGENT_MAX): is something of html/template or reflect linked in?"; exit 1; \
	fi; \
	echo "verify: generated files and go.mod are current; the node agent has $$size bytes"
