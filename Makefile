# Everything that a developer runs. Each target sets up what it needs: Python 3.11 and make suffice.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
# Twice as many as there are cores: most tests wait for processes for half of their time.
JOBS ?= $(shell echo $$(($$(nproc 2>/dev/null || echo 2) * 2)))
# Tests start hundreds of processes: without compiled modules each would compile the project anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo test test-all chaos soak bench check fix lock clean

help:
	@echo "make demo      run a real batch on an embedded server: API, workers, results"
	@echo "make test      all tests"
	@echo "make test-all  all tests on each of Python 3.11, 3.12, 3.13 that is installed"
	@echo "make chaos     the fault suite: make chaos SEED=7, make chaos SEED=1..20"
	@echo "make soak      load and kills, then rest: nothing may be left; make soak MINUTES=30"
	@echo "make bench     all benchmarks, half an hour or more; QUICK=1: smaller numbers, some minutes"
	@echo "make check     ruff, mypy, import-linter, luacheck (where installed)"
	@echo "make fix       format, and fix what ruff can"
	@echo "make lock      pin the newest dependencies in requirements.lock (needs uv)"

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed: say which one to use with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(BIN)/opsqueue demo

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# A virtual environment a version, so that each resolves and imports what it would for a user.
test-all:
	@set -e; for version in 3.11 3.12 3.13; do \
	  if python$$version -c "" 2>/dev/null; then \
	    echo "== Python $$version"; $(MAKE) test PYTHON=python$$version VENV=.venv-$$version; \
	  else echo "== Python $$version is not installed: skipped"; fi; \
	done

# Real processes, killed, stopped and cut off by a seed's schedule: about a minute a seed.
chaos: setup
	$(BIN)/python -m tests.chaos --seed "$(SEED)"

# Two minutes of load unless MINUTES says otherwise, and a minute or so of rest.
soak: setup
	$(BIN)/python -m tests.soak --minutes "$(or $(MINUTES),2)"

# Tables on the terminal, benchmarks/results/NAME.json beside them; ONLY="small limits" runs these.
bench: setup
	$(BIN)/python benchmarks/run.py $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

check: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if command -v luacheck >/dev/null; then luacheck --quiet opsqueue/queue/lua; else echo "luacheck is not installed: skipped"; fi

fix: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# --universal: one file for every Python and platform; no registry's address gets into it.
lock:
	uv pip compile pyproject.toml --python-version 3.11 --universal --generate-hashes --all-extras \
	  --group contribute --quiet --output-file requirements.lock --custom-compile-command "make lock"

clean:
	rm -rf $(VENV) .venv-3.* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
