# The only commands a newcomer needs. `make help` prints them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PY := .venv/bin/python
# The lab and its tests need root; everything else runs as you.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=CI,XDG_CACHE_HOME,SSL_CERT_FILE)

.PHONY: help setup demo test lint validate secrets bench down lock

help: ## this table
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.complete ## the Python environment (.venv), enough to deploy to real nodes
.venv/.complete: requirements.txt requirements-uv.txt
	@if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then \
	  echo "setup: Debian keeps Python's venv in its own package; installing python3-venv (apt)"; \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive sh -c 'apt-get update -q && apt-get install -qy --no-install-recommends python3-venv ca-certificates'; \
	fi
	@echo "setup: uv (from PyPI, hash-checked) makes .venv from requirements.txt"
	@python3 -m venv .uv
	@.uv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-uv.txt
	@.uv/bin/uv venv -q --clear --python "$$(.uv/bin/python -c 'import sys; print(sys._base_executable)')" .venv
	@.uv/bin/uv pip sync -q --python $(PY) --require-hashes requirements.txt
	@touch $@

lock: ## recompile the hashed requirements from pyproject.toml
	.uv/bin/uv pip compile -q pyproject.toml --all-extras --group deploy --group test --group lint --group bench --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-emit-index-url --no-emit-find-links -o requirements.txt

lint: setup ## ruff, strict mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy .

test: lint ## lint and all tests
	$(PY) -m pytest

secrets: setup ## random secrets into secrets.toml (0600, git-ignored); keeps the ones that are there
	@$(PY) -m console.secrets
