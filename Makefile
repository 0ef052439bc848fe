# The only commands a newcomer needs. `make` prints them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PY := .venv/bin/python
# Namespaces, mounts and apt take root; everything else runs as you.
KEEP := OKOME_LAB,OKOME_CACHE_TESTS,XDG_CACHE_HOME,SSL_CERT_FILE
SUDO := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=$(KEEP) env PYTHONDONTWRITEBYTECODE=1)
# Where nodes can be booted: on Linux, as root or with sudo.
LAB := $(shell test "$$(uname -s)" = Linux && { test "$$(id -u)" = 0 || command -v sudo; } >/dev/null && echo yes)

# What goes wrong is on stderr.
QUIETLY := -qqy --no-install-recommends -o Dpkg::Use-Pty=0

.PHONY: help setup tools demo test test-unit fresh lint validate secrets bench down lock mutants lowest

help: ## this table
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.complete ## the Python environment in .venv: enough to deploy to real nodes
.venv/.complete: requirements.txt requirements-uv.txt
	@if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "setup: installing python3-venv, which Debian keeps apart from Python$(if $(SUDO), (sudo))"; \
	  $(SUDO) apt-get update -qq; \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install $(QUIETLY) python3-venv ca-certificates >/dev/null; \
	fi
	@echo "setup: .venv from requirements.txt, by uv (both checked by hash)"
	@python3 -m venv .uv
	@.uv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-uv.txt
	@.uv/bin/uv venv -q --clear --python "$$(.uv/bin/python -c 'import sys; print(sys._base_executable)')" .venv
	@.uv/bin/uv pip sync -q --compile-bytecode --python $(PY) --require-hashes requirements.txt
	@ln -sf ../../console/okome .venv/bin/okome
	@touch $@

# The tests start a Redis of their own. That of the package is neither to run now nor after the next boot.
define NOT_STARTED
set -e; policy=/usr/sbin/policy-rc.d
command -v redis-server >/dev/null || new=yes
test -e $$policy || { trap "rm -f $$policy" EXIT; printf '#!/bin/sh\nexit 101\n' >$$policy; chmod 755 $$policy; }
"$$@"
test -z "$$new" || ! command -v systemctl >/dev/null || systemctl -q disable redis-server 2>/dev/null
endef
export NOT_STARTED

tools: setup # the Debian packages that the lab and the tests call
ifneq ($(LAB),)
	@missing=$$($(PY) -m lab packages); \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	command -v shellcheck >/dev/null || missing="$$missing shellcheck"; \
	command -v faketime >/dev/null || missing="$$missing faketime"; \
	command -v wrk >/dev/null || missing="$$missing wrk"; \
	if [ -n "$$missing" ]; then \
	  echo "tools: installing $$missing$(if $(SUDO), (sudo))"; \
	  $(SUDO) apt-get update -qq; \
	  $(SUDO) sh -c "$$NOT_STARTED" sh env DEBIAN_FRONTEND=noninteractive apt-get install $(QUIETLY) $$missing >/dev/null; \
	fi
endif

demo: tools ## boot bare nodes in the lab, make them the tier, again, verify (root: namespaces, mounts)
	@test -z "$(SUDO)" || echo "demo: sudo, for namespaces and mounts"
	@$(SUDO) $(PY) -m lab.demo

# Where the lab can run, all tests do, and as root. Its nodes wait more than they compute: WORKERS labs on two cores.
PYTEST := $(if $(LAB),$(SUDO)) $(PY) -m pytest -p no:cacheprovider --dist loadfile
WORKERS := 4

test: lint tools lowest ## lint and all tests; those on nodes are left out where the lab can't run
	@test -z "$(LAB)" -o -z "$(SUDO)" || echo "test: sudo, for the nodes of the lab"
	@$(PYTEST) --numprocesses $(WORKERS) --no-loadscope-reorder

# FastAPI, which an example is tried with, wants a newer Starlette than the planner does.
lowest: tools .venv-lowest/.complete ## the library's tests with the lowest versions that pyproject.toml allows it
	@.venv-lowest/bin/python -m pytest -p no:cacheprovider -q --numprocesses $(WORKERS) --dist loadfile tests/unit/okome \
	  --ignore tests/unit/okome/test_docs_planner.py

.venv-lowest/.complete: .venv/.complete requirements.txt requirements-lowest.txt
	@echo "lowest: .venv-lowest, as .venv but for what requirements-lowest.txt names"
	@.uv/bin/uv venv -q --clear --python "$$(.uv/bin/python -c 'import sys; print(sys._base_executable)')" .venv-lowest
	@.uv/bin/uv pip sync -q --python .venv-lowest/bin/python --require-hashes requirements.txt
	@.uv/bin/uv pip install -q --python .venv-lowest/bin/python --no-deps --require-hashes -r requirements-lowest.txt
	@touch $@

test-unit: tools ## those tests that need no node, in about two minutes
	@$(PYTEST) --numprocesses 2 tests/unit

fresh: tools ## the same two commands on a bare Debian 12 and 13, built for it (SUITE=bookworm for one)
	@$(SUDO) $(PY) -m lab.fresh $(if $(SUITE),--suite $(SUITE))

lint: setup tools ## ruff, strict mypy, shellcheck; nginx and gixy on the rendered configuration
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy .
	@$(if $(LAB),,command -v shellcheck >/dev/null || { echo "lint: left out shellcheck, which is not here"; exit; };) $(PY) -m tests.shell_lint
	@$(if $(LAB),$(SUDO)) $(PY) -m tests.nginx.lint

secrets: setup ## write random secrets to secrets.toml (0600, never committed)
	@$(PY) -m console.secrets

validate: setup ## testinfra against the live nodes of inventory.py
	@$(PY) -m pytest tests/verify

bench: tools ## every benchmark, beside what it is compared with; fails if a goal does not hold
	@command -v wrk >/dev/null || { echo "bench: installing wrk"; $(SUDO) apt-get install $(QUIETLY) wrk >/dev/null; }
	@failed=; for name in $$($(PY) -c 'from bench.__main__ import benches; print(*benches())'); do \
	  test "$$name" != conformance -o -n "$$OKOME_CACHE_TESTS" || \
    { echo "bench: left out $$name, which wants a checkout of its suite in OKOME_CACHE_TESTS"; continue; }; \
  echo "bench: $$name"; $(SUDO) $(PY) -m bench $$name || failed="$$failed $$name"; \
	done; \
	test -z "$$failed" || { echo "bench: a goal does not hold in:$$failed"; exit 1; }

down: ## remove every trace of the lab from this machine
	@test ! -e .venv || $(SUDO) $(PY) -m lab down

lock: setup # recompile the hashed requirements from pyproject.toml
	@.uv/bin/uv pip compile -q pyproject.toml --all-extras --group deploy --group test --group lint --group bench --group mutants \
	  --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links \
	  -o requirements.txt
	@.uv/bin/uv pip compile -q pyproject.toml --all-extras --resolution lowest-direct --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-emit-index-url --no-emit-find-links -o requirements-lowest.txt
	@.uv/bin/uv pip compile -q --group pyproject.toml:litellm --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-emit-index-url --no-emit-find-links -o requirements-litellm.txt

mutants: setup ## one-line faults put into what decides: does a unit test notice each? About 17 minutes
	@nice $(PY) -m tests.mutants
