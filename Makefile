# VENV: where `make install` puts the environment. PYTHON: what makes it.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
MANAGE := $(BIN)/python manage.py
SOURCES := imagegen_project generation loras models_registry
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo run stop test lint format typecheck check bench fidelity clean

help:  ## Shows what can be made
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## Makes the environment in VENV (default .venv) and installs everything

$(STAMP): requirements.txt requirements-web.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "imagegen needs Python 3.11 or newer, and $(PYTHON) is not: try make install PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	    echo "$(PYTHON) could not make an environment: on Debian and Ubuntu, install the package python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

demo: install  ## Installs, then runs the whole service on http://127.0.0.1:8000
	$(MANAGE) standalone

run: install  ## Runs the whole service; options in ARGS, e.g. make run ARGS="--port 9000"
	$(MANAGE) standalone $(ARGS)

stop: install  ## Stops the service that uses the data folder
	$(MANAGE) standalone --stop

test: install  ## Runs the whole test suite; options in ARGS, e.g. make test ARGS="-k embedded"
	$(BIN)/python -m pytest $(ARGS)

lint: install  ## Checks style, formatting, types, import rules and migrations
	$(BIN)/ruff check .
	$(BIN)/black --check --quiet . || { $(BIN)/black --diff --quiet . ; exit 1; }
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --quiet tests/integration/test_migrations.py

format: install  ## Formats the code
	$(BIN)/ruff check --fix --select I .
	$(BIN)/black --quiet .

typecheck: install  ## Checks types only
	$(BIN)/mypy $(SOURCES)

check: lint test  ## Everything that CI runs

bench: install  ## Measures the running service on this machine
	$(BIN)/python -m benchmarks.service

fidelity: install  ## Measures how well the built-in model draws what its prompts say; options in ARGS
	$(BIN)/python -m models_registry.builtin.evaluate $(ARGS)

clean:  ## Removes the environment and caches; the data folder stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage staticfiles
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
