# Every target that ends in "## …" is explained by `make help`.
SHELL   := /bin/bash
GO      ?= go
ARCH    ?= $(shell $(GO) env GOARCH)
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LAB     := .lab
# How long the tests of one package may take: far longer than they do anywhere.
PATIENCE := 40m
comma   := ,
BASE    := k8s.io/component-base/version
LDFLAGS := -s -w -X clusterctl/hostconfig.Version=$(VERSION) \
	-X $(BASE).gitVersion=v1.36.3 -X $(BASE).gitMajor=1 -X $(BASE).gitMinor=36 -X $(BASE).gitTreeState=clean

# One set of flags for every build, test and check, so that each package is
# compiled once.
export CGO_ENABLED := 0
export GOFLAGS     := -trimpath -buildvcs=false

.DEFAULT_GOAL := help
.PHONY: help deps build payload test unit integration linearizability failover kubectl helm e2e faults machine lint fmt generate demo demo-clean bench-up bench-api bench-failover bench-node bench-scheduler bench-proxy conformance clean

help: ## show this help
	@awk -F ':.*## ' '/^[a-zA-Z0-9_-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install the Debian packages that building and the lab need (root)
	@./.ci/deps

build: payload ## build bin/clusterctl (with the payload), bin/controlplane, bin/nodeagent and the sample's image
	@mkdir -p bin
	@cp .cache/bundle/$(ARCH)/controlplane .cache/bundle/$(ARCH)/nodeagent bin/
	$(GO) build -ldflags "$(LDFLAGS)" -o bin/clusterctl ./cmd/clusterctl
	$(GO) build -ldflags "-s -w" -o bin/sample ./test/sample
	@$(GO) run ./bundle/mkimage -name clusterctl.dev/sample:1 -binary bin/sample -out bin/sample.tar

payload: ## build what clusterctl carries for the hosts (only what changed)
	$(GO) run ./bundle/pack -arch $(ARCH) -version $(VERSION)

test: unit integration linearizability failover kubectl helm e2e ## every test; the end-to-end part needs root on Linux and says so where it is skipped

unit: ## unit tests
	$(GO) test -timeout $(PATIENCE) $$($(GO) list ./... | grep -v -e /test/)

integration: ## the API server against a real etcd, in one process
	$(GO) test -timeout $(PATIENCE) ./test/integration/...

linearizability: ## three API servers and etcd members that are killed, judged by what clients saw; TIME=5m for longer
	CLUSTERCTL_LINEARIZABILITY=$(TIME) $(GO) test -count=1 -timeout 60m -v ./test/linearizability/...

failover: ## the leading scheduler and controllers are killed, and others go on
	$(GO) test -timeout $(PATIENCE) ./test/failover/...

kubectl: ## every verb of kubectl, against a control plane without nodes
	$(GO) test -timeout $(PATIENCE) ./test/kubectl/...

# -mod=mod: what the product's go.mod gains, that of the test need not be told.
helm: ## Helm 4 installs, upgrades, rolls back and removes a chart (a module of its own)
	cd test/helm && $(GO) vet -mod=mod ./... && $(GO) test -timeout $(PATIENCE) -mod=mod ./...

e2e: ## clusters on lab hosts, through the built programs (Linux, root)
	@if [ "$$(uname -s)" != Linux ] || [ "$$(id -u)" != 0 ]; then \
		echo "SKIPPED: the end-to-end test boots lab hosts, which needs root on Linux; run it there with: sudo make e2e"; \
	else $(MAKE) deps build && $(GO) test -count=1 -timeout $(PATIENCE) -v ./test/e2e/...; fi

faults: ## break lab hosts in every way the lab can, half an hour (Linux, root); CLOCK=1 has this machine's clock jump too
	@$(MAKE) --no-print-directory deps build
	CLUSTERCTL_FAULTS=1 CLUSTERCTL_CLOCK=$(CLOCK) $(GO) test -count=1 -timeout 90m -v -run '^TestFaults$$' ./test/e2e/

machine: ## a cluster of one on a Debian 12 of its own kernel and without iptables, in an emulated machine (Linux, root, qemu; ten minutes)
	@$(MAKE) --no-print-directory deps build
	./test/machine

lint: ## gofmt, go vet, staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "not formatted:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

fmt: ## format every Go file
	gofmt -w $$(git ls-files '*.go')

generate: ## regenerate what is generated: OpenAPI definitions, the inventory's JSON schema
	$(GO) generate ./...

demo: ## from nothing to a highly available cluster on five lab hosts, with a sample served (Linux, root)
	@$(MAKE) --no-print-directory deps build
	@./test/demo

demo-clean: ## remove what `make demo` left: hosts, inventory, kubeconfig
	@test ! -x bin/clusterctl || bin/clusterctl lab delete --name demo
	@rm -rf $(LAB)

bench-up: deps build ## time `clusterctl up` on five lab hosts, by phase
	$(GO) test -count=1 -timeout 10m -v -run '^$$' -bench 'Up' -benchtime 1x ./test/e2e/

bench-api: ## measure the API server beside stock kube-apiserver; ROUNDS=3
	@mkdir -p bin
	$(GO) build -ldflags "$(LDFLAGS)" -o bin/controlplane ./cmd/controlplane
	cd test/conformance && $(GO) build -ldflags "-s -w" -o ../../bin/kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
	$(GO) run ./test/bench -rounds $(or $(ROUNDS),3) -controlplane bin/controlplane -kube-apiserver bin/kube-apiserver

bench-scheduler: ## measure the scheduler beside stock kube-scheduler; ROUNDS=1 PODS=1000 NODES=100,1000,5000
	@mkdir -p bin
	$(GO) build -ldflags "$(LDFLAGS)" -o bin/controlplane ./cmd/controlplane
	cd test/conformance && $(GO) build -ldflags "-s -w" -o ../../bin/kube-scheduler k8s.io/kubernetes/cmd/kube-scheduler
	$(GO) run ./test/bench/scheduler -rounds $(or $(ROUNDS),1) -pods $(or $(PODS),1000) -nodes $(or $(NODES),100$(comma)1000$(comma)5000) -controlplane bin/controlplane -kube-scheduler bin/kube-scheduler

bench-node: deps build ## measure the node agent beside the stock kubelet on a lab host (Linux, root); ROUNDS=1
	cd test/conformance && $(GO) build -ldflags "$(LDFLAGS)" -o ../../bin/kubelet k8s.io/kubernetes/cmd/kubelet
	$(GO) run ./test/bench/node -rounds $(or $(ROUNDS),1) -clusterctl bin/clusterctl -kubelet bin/kubelet

bench-proxy: ## measure the service proxy beside stock kube-proxy (Linux, root, nft and iptables); SERVICES=1000,5000,10000 CHANGES=20
	@mkdir -p bin
	cd test/conformance && $(GO) build -ldflags "-s -w" -o ../../bin/kube-proxy k8s.io/kubernetes/cmd/kube-proxy
	$(GO) build -o bin/bench-proxy ./test/bench/proxy
	bin/bench-proxy -services $(or $(SERVICES),1000$(comma)5000$(comma)10000) -changes $(or $(CHANGES),20) -kube-proxy bin/kube-proxy

bench-failover: ## kill the leading scheduler or controllers, time until a new Deployment's pod is bound; KILLS=20
	$(GO) test -count=1 -timeout 30m -run '^$$' -bench Failover -benchtime $(or $(KILLS),20)x ./test/failover/

conformance: ## Kubernetes' own conformance suite on lab hosts (Linux, root); FOCUS=… SKIP=… LABELS=… PROCS=…
	@$(MAKE) --no-print-directory deps build
	@cd test/conformance && $(GO) run ./run -procs '$(or $(PROCS),4)' -labels '$(or $(LABELS),Conformance)' -focus '$(FOCUS)' -skip '$(SKIP)' -docs ../../docs/conformance.md

clean: ## remove everything built
	rm -rf bin .cache bundle/payload/files/amd64 bundle/payload/files/arm64
