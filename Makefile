# Needs Python >= 3.11 and make; makes .venv with what Python has.
PYTHON ?= python3
# Two workers. Each begins with one half of the tests in their order, so that a module's stack starts once and not once a
# worker; who is done takes from the other's half. By `load`, the default, one worker was handed most of the slow tests in
# one piece and the other waited: 949 and 471 s of tests, against 670 and 749 so.
PYTEST_ARGS ?= -n 2 --dist worksteal
PYTEST = $(BIN)/python -m pytest
# What only .ci/run and `make soak` run; tests/support/tier.py has the same names.
LEFT_OUT := kafka or sdk or browser or fault or alone
# Where the sizes of `make soak` differ.
DEEP := tests/unit tests/properties tests/faults tests/integration/test_as_of.py tests/conformance/test_capture_fuzz.py \
	tests/conformance/test_openapi.py
BIN := .venv/bin
# PostHog's SDKs for Node and browsers, Go and Rust, where there is npm, go or cargo; without them their tests skip.
SDKS := $(if $(shell command -v npm 2>/dev/null),tests/sdk/node_modules/.stamp) \
	$(if $(shell command -v go 2>/dev/null),tests/sdk/go/dist/story) \
	$(if $(shell command -v cargo 2>/dev/null),tests/sdk/rust/dist/story tests/sdk/rust/dist/story-v1)

.PHONY: up test test-all soak check bench requirements

up: .venv/run.stamp
	exec $(BIN)/personlog up

# Minutes: without those of LEFT_OUT, and at the small sizes wherever it runs.
test: .venv/dev.stamp .venv/s3.stamp
	PERSONLOG_TEST_PROFILE=dev $(PYTEST) -m "not ($(LEFT_OUT))" $(PYTEST_ARGS)

# Every test; .ci/run calls it.
test-all: .venv/dev.stamp .venv/s3.stamp $(SDKS)
	$(PYTEST) --durations=20 $(PYTEST_ARGS)

# By hand: docs/reliability.md says what it runs and keeps its figures.
soak: .venv/dev.stamp .venv/s3.stamp $(SDKS)
	PERSONLOG_TEST_PROFILE=soak PERSONLOG_TEST_NO_SKIP=1 $(PYTEST) $(PYTEST_ARGS) --durations=20 $(DEEP)

check: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check services shared clients
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

tests/sdk/go/dist/story: $(addprefix tests/sdk/go/,main.go go.mod go.sum)
	cd tests/sdk/go && GOTOOLCHAIN=local go build -buildvcs=false -o dist/story .

# pins.lock is Cargo.lock without the address of the registry, which no committed file names: cargo says it here anew.
tests/sdk/rust/Cargo.lock: $(addprefix tests/sdk/rust/,Cargo.toml pins.lock)
	cd tests/sdk/rust && rm -f Cargo.lock && cargo generate-lockfile --quiet && \
		awk -v source="$$(grep -m 1 '^source' Cargo.lock)" '/^checksum/ { print source } { print }' pins.lock > Cargo.lock.new && \
		mv Cargo.lock.new Cargo.lock

tests/sdk/rust/dist/story: tests/sdk/rust/src/main.rs tests/sdk/rust/Cargo.lock
	cd tests/sdk/rust && cargo build --locked --quiet --target-dir dist && cp dist/debug/story dist/story

# Its capture v1 is a choice at compile time. After the other, whose crates it shares.
tests/sdk/rust/dist/story-v1: tests/sdk/rust/dist/story
	cd tests/sdk/rust && cargo build --locked --quiet --target-dir dist --features v1 && cp dist/debug/story dist/story-v1

# Pin anew (needs uv): hashes, and no address of any index. What containers run is a subset of the same pins.
UV ?= uv
UV_PIN = $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11
UV_COMPILE = $(UV_PIN) --extra fast --group build
requirements:
	$(UV_COMPILE) --extra embedded --extra parquet pyproject.toml -o requirements/run.txt
	$(UV_COMPILE) --constraint requirements/run.txt pyproject.toml -o requirements/server.txt
	$(UV_COMPILE) --constraint requirements/run.txt --extra embedded --extra parquet --group test --group check --group bench pyproject.toml -o requirements/dev.txt
	$(UV_PIN) --group s3 -o requirements/s3.txt

# The same for the Rust SDK (needs cargo).
.PHONY: rust-pins
rust-pins:
	cd tests/sdk/rust && rm -f Cargo.lock && cargo generate-lockfile && grep -v '^source' Cargo.lock > pins.lock
