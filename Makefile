# Everything a developer or the continuous integration runs. Python 3.11 or newer and make are enough to start.

PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header $(if $(UPGRADE),--upgrade)
# What waits longest comes first: beside it there is still work for the others.
SLOW_TESTS := tests/faults tests/properties tests/integration
AT_ONCE := $(MAKE) --no-print-directory --jobs 2 --output-sync=target

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run test check bench faults load lock

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.development ## make .venv with all that the other targets need

run: .venv/.runtime ## start everything with made-up people and show their messages going out
	$(BIN)/daybreak demo

test: .venv/.development ## everything: check, the tests that need servers or patience, short forms of bench and load
	@$(AT_ONCE) check-types check-rest rabbitmq nginx
	$(BIN)/pytest -n 2 --dist worksteal $(SLOW_TESTS)
	$(BIN)/python -m tests.bench --short
	$(BIN)/python -m tests.load.fuzz --short

check: .venv/.development ## format, lint, types, import contracts, quick tests: under a minute
	@$(AT_ONCE) check-types check-rest

.PHONY: check-types check-rest
check-types:
	$(BIN)/mypy

check-rest:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -n 2 tests/unit tests/architecture

bench: .venv/.development .venv-peers/.installed rabbitmq nginx ## rates beside peers and limits: a table, JSON, a chart
	$(BIN)/python -m tests.bench

faults: .venv/.development rabbitmq ## kill and pause real processes and servers, then compare log and ledger
	TEST_SCALE=full $(BIN)/pytest tests/faults

load: .venv/.development ## users written and read at sixteen connections, and imported: rates; then every route fuzzed for ten minutes
	$(BIN)/python -m tests.load.api
	$(BIN)/python -m tests.load.imports
	$(BIN)/python -m tests.load.fuzz --seconds 600

lock: .venv/.created ## write the lock files from pyproject.toml (UPGRADE=1: with the newest versions)
	$(COMPILE) pyproject.toml --group build --output-file requirements.lock
	$(COMPILE) pyproject.toml --group build --group dev --constraints requirements.lock \
		--output-file requirements-dev.lock
	$(COMPILE) --group installer --output-file requirements-installer.lock
	$(COMPILE) tests/bench/peers.in --output-file tests/bench/peers.lock

# Debian ships Python without what makes virtual environments work.
.venv/.created: requirements-installer.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Daybreak needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
		then apt-get -qq update && apt-get -qq install --yes --no-install-recommends python3-venv; \
		else echo "Python's venv is missing: run 'sudo apt-get install python3-venv' first" >&2; exit 1; fi
	$(PYTHON) -m venv .venv
	@$(PIP) --require-hashes -r requirements-installer.lock || echo "going on without uv, with pip"
	@touch $@

# Tests start a RabbitMQ of their own, from Debian's package.
.PHONY: rabbitmq
rabbitmq:
	@test -x /usr/lib/rabbitmq/bin/rabbitmq-server || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
		then apt-get -qq update && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
			apt-get -qq install --yes --no-install-recommends rabbitmq-server; \
		else echo "the tests need RabbitMQ: run 'sudo apt-get install rabbitmq-server' first" >&2; exit 1; fi

# The benchmark's sink, from Debian too. Its service is not started. After the other: one installation at a time.
.PHONY: nginx
nginx: | rabbitmq
	@PATH="$$PATH:/usr/sbin" command -v nginx >/dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
		then apt-get -qq update && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
			apt-get -qq install --yes --no-install-recommends nginx-light; \
		else echo "the benchmark needs nginx: run 'sudo apt-get install nginx-light' first" >&2; exit 1; fi

# What the benchmark compares with, and what draws its chart, in an environment of its own.
.venv-peers/.installed: .venv/.created tests/bench/peers.lock
	@echo 'installing tests/bench/peers.lock'
	@test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	@$(BIN)/uv pip install --quiet --python .venv-peers/bin/python --require-hashes -r tests/bench/peers.lock \
		|| .venv-peers/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes \
			-r tests/bench/peers.lock
	@touch $@

# The project itself is built by the locked setuptools: nothing is downloaded that no hash guards.
.venv/.runtime: .venv/.created requirements.lock pyproject.toml
	@echo 'installing requirements.lock'
	@$(call install,--require-hashes -r requirements.lock)
	@$(call install,--no-deps --no-build-isolation --editable .)
	@touch $@

.venv/.development: .venv/.runtime requirements-dev.lock
	@echo 'installing requirements-dev.lock'
	@$(call install,--require-hashes -r requirements-dev.lock)
	@touch $@

define install
$(UV) $(1) || $(PIP) $(1)
endef
