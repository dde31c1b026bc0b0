# All commands for developers. Each target installs what it needs; you need only Python 3.11 and make.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# Twice the number of cores, since most tests wait for processes half of the time.
JOBS ?= $(shell echo $$(($$(nproc 2>/dev/null || echo 2) * 2)))
# Tests start hundreds of processes. Without compiled modules each would compile the project again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-all chaos soak bench check fix lock clean

help:
	@echo "make demo      run a real batch on an embedded server: API, workers, results"
	@echo "make test      all tests"
	@echo "make test-all  all tests on each installed Python of 3.11 to 3.14"
	@echo "make chaos     the fault suite: make chaos SEED=7, make chaos SEED=1..20"
	@echo "make soak      load and kills, then idle: nothing may be left over; make soak MINUTES=30"
	@echo "make bench     all benchmarks, at least half an hour; QUICK=1 takes some minutes"
	@echo "make check     ruff, mypy, import-linter, the words, luacheck (where installed)"
	@echo "make fix       format the code, and apply ruff's fixes"
	@echo "make lock      pin the newest dependencies in requirements.lock (needs uv)"

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed: choose another one with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(BIN)/opsqueue demo

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# One virtual environment per version, so that each imports the same packages as for a user.
test-all:
	@set -e; for version in 3.11 3.12 3.13 3.14; do \
	  if python$$version -c "" 2>/dev/null; then \
	    echo "== Python $$version"; $(MAKE) test PYTHON=python$$version VENV=.venv-$$version; \
	  else echo "== Python $$version is not installed: skipped"; fi; \
	done

# Real processes that are killed, stopped and disconnected by a seed's schedule, a minute per seed.
chaos: setup
	$(BIN)/python -m tests.chaos --seed "$(SEED)"

# Two minutes of load, or MINUTES, and then about a minute without load.
soak: setup
	$(BIN)/python -m tests.soak --minutes "$(or $(MINUTES),2)"

# Prints tables and writes benchmarks/results/NAME.json; ONLY="small limits" runs only these two.
bench: setup
	$(BIN)/python benchmarks/run.py $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

check: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.plain_english
	@if command -v luacheck >/dev/null; then luacheck --quiet opsqueue/queue/lua; else echo "luacheck is not installed: skipped"; fi

fix: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# --universal writes one file for every Python and platform, without a registry's address.
lock:
	uv pip compile pyproject.toml --python-version 3.11 --universal --generate-hashes --all-extras \
	  --group contribute --quiet --output-file requirements.lock --custom-compile-command "make lock"

clean:
	rm -rf $(VENV) .venv-3.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
