# Needs Python >= 3.11 and make; makes .venv with what Python has.
PYTHON ?= python3
PYTEST_ARGS ?= -n 2
BIN := .venv/bin
# PostHog's SDKs for Node and browsers, where there is npm; without them their tests skip.
SDKS := $(if $(shell command -v npm 2>/dev/null),tests/sdk/node_modules/.stamp)

.PHONY: up test check bench requirements

up: .venv/run.stamp
	exec $(BIN)/personlog up

test: .venv/dev.stamp .venv/s3.stamp $(SDKS)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/dev.stamp
	$(BIN)/python -m bench

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "personlog needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv

.venv/run.stamp: requirements/run.txt pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

.venv/dev.stamp: requirements/dev.txt .venv/run.stamp
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

.venv/s3.stamp: requirements/s3.txt | .venv/bin/python
	$(BIN)/python -m venv .venv/s3
	.venv/s3/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/s3.txt
	@touch $@

tests/sdk/node_modules/.stamp: tests/sdk/package-lock.json
	cd tests/sdk && npm ci --ignore-scripts --no-audit --no-fund --omit-lockfile-registry-resolved --silent
	@touch $@

# Pin anew (needs uv): hashes, and no address of any index. What containers run is a subset of the same pins.
UV ?= uv
UV_PIN = $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11
UV_COMPILE = $(UV_PIN) --extra fast --group build
requirements:
	$(UV_COMPILE) --extra embedded pyproject.toml -o requirements/run.txt
	$(UV_COMPILE) --constraint requirements/run.txt pyproject.toml -o requirements/server.txt
	$(UV_COMPILE) --constraint requirements/run.txt --extra embedded --group test --group check --group bench pyproject.toml -o requirements/dev.txt
	$(UV_PIN) --group s3 -o requirements/s3.txt
