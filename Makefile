# Tessera: `make run` starts everything, `make test` tests everything, `make help` lists the rest.

SHELL := /bin/sh
VENV := .venv
STAMPS := $(VENV)/.stamps
BIN := $(VENV)/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python
PORT ?= 8000
DATA ?= .run
ARGS ?=
ONLY ?=
JSON ?=
CSV ?=
PAIRS ?= 1000
EFFORT ?= 125
export PATH := $(CURDIR)/$(BIN):$(PATH)

# As root prefer Debian's Python: people's own user ids must be able to run it, which one below /root forbids.
PYTHON ?= $(shell for p in $$([ "$$(id -u)" = 0 ] && echo /usr/bin/python3) python3 python3.13 python3.12 python3.11 /usr/bin/python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v "$$p"; break; }; done)

BEGAN := $(shell date +%s)
say = printf '%4d s  %s\n' $$(( $$(date +%s) - $(BEGAN) ))

LAB_SOURCES := $(shell find extensions/labextension extensions/jupyter-config -name node_modules -prune -o -name lib -prune -o -type f -print 2>/dev/null)

SIMULATOR_SOURCES := $(shell find vgpu/simulator -name '*.[ch]' -o -name '*.map' -o -name Makefile)
INTERPOSER_SOURCES := $(shell find vgpu/interposer -name '*.[ch]' -o -name Makefile)

.PHONY: run demo test soak cluster cluster-down bench foreign simulator interposer lint docs clean help setup setup-test
.DEFAULT_GOAL := help

run: setup ## Start Tessera on this machine (PORT=8000 DATA=.run ARGS='--simulate-cards 2xA100-80G')
	@exec $(BIN)/tessera up --data-dir $(DATA) --port $(PORT) $(ARGS)

demo: setup ## Go through the whole tour without a browser and print what happened (ARGS=--json)
	@exec $(BIN)/tessera demo $(ARGS)

test: setup-test ## Run the tests (as root, or ONLY=unprivileged; ONLY=group: tenancy conformance faults browser billing, or a folder below tests/)
	@tests/run.sh $(ONLY)

soak: setup-test ## Test slices of cards for hours: torture, fuzz, sanitizers, pods that start at once (as root; PAIRS=1000 EFFORT=125)
	@TESSERA_TEST_EFFORT=$(EFFORT) $(BIN)/python -m pytest -s -o timeout=0 tests/vgpu/interposer/test_sanitizers.py tests/vgpu/interposer/test_fuzz.py \
		tests/vgpu/interposer/test_hostile.py tests/vgpu/interposer/test_books.py tests/vgpu/agent/test_hostile.py tests/vgpu/agent/test_fuzz.py
	@TESSERA_TEST_PAIRS=$(PAIRS) $(BIN)/python -m pytest -s -o timeout=0 tests/vgpu/test_kubelet.py -k same_second

cluster: setup-test ## Bring up a real Kubernetes on this machine, as root (.cluster/kubeconfig)
	@$(BIN)/python -m tests.cluster up

cluster-down: ## Remove every trace of it
	@$(BIN)/python -m tests.cluster down

bench: setup-test ## Run the benchmarks (ONLY=name JSON=file CSV=file)
	@$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(JSON),--json $(JSON)) $(if $(CSV),--csv $(CSV))

simulator: $(STAMPS)/simulator ## Build the simulated GPU driver into vgpu/build

interposer: $(STAMPS)/interposer ## Build the library that enforces slices into vgpu/build

lint: setup-test ## Check style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/pyright
	@if [ -f extensions/labextension/package.json ]; then cd extensions/labextension && npm run --silent lint; fi

foreign: setup-test ## Run programs of others (PyTorch, CuPy, Numba, nvcc) on simulated cards; downloads 2 GB into .foreign
	@$(BIN)/python -m tests.vgpu.others

docs: $(STAMPS)/docs ## Build the documentation into docs/_build/html
	@$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

clean: ## Remove everything that was built (not the data directory)
	rm -rf $(VENV) build vgpu/build dist docs/_build extensions/labextension/node_modules extensions/labextension/lib extensions/tessera_lab/labextension

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMPS)/python $(STAMPS)/proxy $(STAMPS)/lab ## Make .venv and build what `make run` needs

setup-test: $(STAMPS)/test $(STAMPS)/proxy $(STAMPS)/lab $(STAMPS)/simulator $(STAMPS)/interposer

$(STAMPS)/venv:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found; set PYTHON=/path/to/python3."; exit 1; }
	@$(say) "Making .venv with $(PYTHON)"
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			$(say) "Installing python3-venv"; apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install python3-venv >/dev/null; \
		else echo "The Python package venv is missing: install python3-venv (on Debian: apt-get install python3-venv)."; exit 1; fi; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/python: setup.cfg pyproject.toml | $(STAMPS)/venv
	@$(say) "Installing Python packages"
	@$(UV) -e '.[all]'
	@touch $@

$(STAMPS)/test: setup.cfg pyproject.toml | $(STAMPS)/venv
	@$(say) "Installing Python packages, those for tests, too"
	@$(UV) -e '.[test]'
	@touch $@ $(STAMPS)/python

$(STAMPS)/simulator: $(SIMULATOR_SOURCES) | $(STAMPS)/test
	@$(say) "Building the simulated GPU driver"
	@$(MAKE) --silent -C vgpu/simulator PYTHON=$(CURDIR)/$(BIN)/python
	@touch $@

$(STAMPS)/interposer: $(INTERPOSER_SOURCES) | $(STAMPS)/test
	@$(say) "Building the library that enforces slices"
	@$(MAKE) --silent -C vgpu/interposer PYTHON=$(CURDIR)/$(BIN)/python
	@touch $@

$(STAMPS)/docs: setup.cfg pyproject.toml | $(STAMPS)/python
	@$(UV) -e '.[all,docs]'
	@touch $@

$(STAMPS)/proxy: | $(STAMPS)/python
	@$(say) "Installing configurable-http-proxy"
	@npm install --silent --no-fund --no-audit --no-update-notifier -g --prefix $(CURDIR)/$(VENV) configurable-http-proxy@5.3.0
	@touch $@

$(STAMPS)/lab: $(LAB_SOURCES) | $(STAMPS)/python
	@$(say) "Building the Lab extension"
	@$(UV) 'jupyter-builder>=1.3,<2'
	@cd extensions/labextension && npm ci --silent --no-fund --no-audit --no-update-notifier && { npm run --silent build >$(CURDIR)/$(STAMPS)/lab.log 2>&1 || { cat $(CURDIR)/$(STAMPS)/lab.log; exit 1; }; }
	@mkdir -p $(VENV)/share/jupyter/labextensions/@tessera $(VENV)/etc/jupyter/jupyter_server_config.d
	@ln -sfn $(CURDIR)/extensions/tessera_lab/labextension $(VENV)/share/jupyter/labextensions/@tessera/lab
	@ln -sf $(CURDIR)/extensions/jupyter-config/tessera.json $(VENV)/etc/jupyter/jupyter_server_config.d/tessera.json
	@mkdir -p $(VENV)/share/jupyter/lab/settings/overrides.d
	@ln -sf $(CURDIR)/extensions/jupyter-config/overrides/tessera.json $(VENV)/share/jupyter/lab/settings/overrides.d/tessera.json
	@mkdir -p $(VENV)/etc/ipython
	@ln -sf $(CURDIR)/extensions/jupyter-config/ipython_config.py $(VENV)/etc/ipython/ipython_config.py
	@touch $@
