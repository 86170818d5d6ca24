# VENV: where `make install` puts the environment. PYTHON: what makes it.
VENV ?= .venv
PYTHON ?= python3
# The build of torch: cpu, cuda (PyPI's: on macOS for the CPU and Metal), or auto: what pip's own settings lead to; a torch
# of the locked version that is there already stays.
TORCH ?= auto
BIN := $(VENV)/bin
# Where this is set (containers often do), each process that a test starts would compile the whole program anew.
unexport PYTHONDONTWRITEBYTECODE
MANAGE := $(BIN)/python manage.py
# What builds images: docker, podman or buildah (which runs nothing, and without a container runtime wants
# ARGS="--isolation chroot --format docker").
DOCKER ?= docker
IMAGES ?= imagegen-web imagegen-worker
# Writes the image that is named next, as an archive, to standard output.
SAVE = $(if $(findstring buildah,$(DOCKER)),$(DOCKER) push --quiet $(1) docker-archive:/dev/stdout,$(DOCKER) save $(1))
COMPOSE ?= $(DOCKER) compose
# What checks the JSDoc types of the pages' modules; nothing of it runs.
TYPESCRIPT := 5.9.3
# Processes of the tests: one more than cores, since some always wait.
JOBS ?= $(shell expr 1 + $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2))
SOURCES := imagegen_project generation loras models_registry scripts
STAMP := $(VENV)/.installed-$(TORCH)
DEV_STAMP := $(VENV)/.installed-dev-$(TORCH)

.DEFAULT_GOAL := help
.PHONY: help install dev demo run stop logs test test-fast test-long test-install test-quantized lint lint-js format typecheck \
        gpu gpu-wheels screenshots audit check check-locks lock vendor pin-images sbom schema bench clients chaos attack soak fidelity build \
        image-size secrets clean

help:  ## Shows what can be made
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## Makes the environment in VENV (default .venv) with what runs; TORCH=cpu|cuda chooses the build

dev: $(DEV_STAMP)  ## Adds what tests and checks need

$(STAMP): locks/all.lock locks/worker.lock locks/web.lock locks/torch-cuda.lock locks/torch-cpu.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "imagegen needs Python 3.11 or newer, and $(PYTHON) is not: try make install PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	    echo "$(PYTHON) could not make an environment: on Debian and Ubuntu, install the package python3-venv" >&2; exit 1; }
	@$(BIN)/python -m scripts.install all --torch $(TORCH)
	@touch $@

$(DEV_STAMP): $(STAMP) locks/dev.lock
	@$(BIN)/python -m scripts.install dev --torch $(TORCH)
	@touch $@

demo: install  ## Installs, then runs the whole service on http://127.0.0.1:8000; options in ARGS, e.g. ARGS="--port 9000"
	$(MANAGE) standalone $(ARGS)

run: install  ## Runs the whole service; options in ARGS, e.g. make run ARGS="--port 9000"
	$(MANAGE) standalone $(ARGS)

stop: install  ## Stops the service that uses the data folder
	$(MANAGE) standalone --stop

logs: install  ## Follows the logs of the service that uses the data folder
	@tail -n 20 -F "$$($(BIN)/python -c 'from imagegen_project.env import DATA_DIR; print(DATA_DIR)')"/logs/*.log

# Tests of the whole service, which begin first, wait for much: one process more than there are cores.
test: dev  ## Runs the whole test suite; options in ARGS, e.g. make test ARGS="-k embedded"
	$(BIN)/python -m pytest $(if $(ARGS),$(ARGS),-m "not gpu and not long" --numprocesses $(JOBS))

test-long: dev  ## Runs what takes a minute or more each: chaos, training, a card's parts
	$(BIN)/python -m pytest -m "long and not gpu" $(ARGS)

test-install: dev  ## Pastes the documents' installing commands into a clean copy, and runs the package outside of it
	$(BIN)/python -m tests.install_documents

test-fast: dev  ## Runs the unit tests, on all cores, without the slowest; options in ARGS
	$(BIN)/python -m pytest tests/unit -m "not slow and not long and not gpu" --numprocesses $(JOBS) $(ARGS)

# They stay beside the environment, since every process that imports diffusers would import them, too.
test-quantized: dev  ## Fetches the libraries that read quantized weights into .quantized/, and tests with them
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --upgrade --target .quantized -r locks/quantized.lock
	PYTHONPATH=$(CURDIR)/.quantized $(BIN)/python -m pytest tests/integration/test_quantized.py \
	    tests/integration/test_live_quantized.py $(ARGS)

lint: check-locks dev  ## Checks locks, style, formatting, types, import rules and migrations
	$(BIN)/ruff check .
	$(BIN)/black --check --quiet . || { $(BIN)/black --diff --quiet . ; exit 1; }
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory lint-js
	$(BIN)/python -m pytest --quiet tests/integration/test_migrations.py

lint-js:  ## Checks the types of the pages' modules, where npm is there
	@if command -v npm >/dev/null; then npx --yes --package typescript@$(TYPESCRIPT) tsc -p tsconfig.json; \
	    else echo "lint-js: skipped, npm is not on this machine"; fi

format: dev  ## Formats the code
	$(BIN)/ruff check --fix --select I .
	$(BIN)/black --quiet .

typecheck: dev  ## Checks types only
	$(BIN)/mypy $(SOURCES)

screenshots: dev  ## Makes the pictures of the pages in docs/pictures anew, in Chromium
	$(BIN)/python -m tests.browser.screenshots

audit: dev  ## Looks for insecure code, and for packages with known holes (asks PyPI; says so where it cannot)
	$(BIN)/bandit --quiet --recursive --severity-level medium --configfile pyproject.toml $(SOURCES)
	$(BIN)/python -m scripts.audit

check-locks:  ## Fails if locks/ does not fit requirements*.txt; needs no network and no installation
	@$(PYTHON) -m scripts.locks check

lock: dev  ## Makes locks/ anew from requirements*.txt, by PyPI; newer versions of the rest with ARGS=--upgrade
	$(BIN)/python -m scripts.locks lock --uv $(BIN)/uv $(ARGS)

vendor: dev  ## Fetches the browser's libraries anew from npm, as the manifest names them; one to a version with ARGS=htm@3.1.1
	$(BIN)/python -m scripts.vendor $(ARGS)

pin-images:  ## Sets the digests of the images that Dockerfile and docker-compose.yml start from; asks their registries
	@$(PYTHON) -m scripts.pin_images

sbom: dev  ## Lists all locked packages with their hashes in sbom.cdx.json (CycloneDX); images hold a list of their own
	cat locks/web.lock locks/worker.lock locks/all.lock locks/torch-cuda.lock | grep -v '^-r ' \
	    | $(BIN)/python -W ignore -m cyclonedx_py requirements --pyproject pyproject.toml --output-file sbom.cdx.json -

schema: dev  ## Calls a live service thousands of times, as its OpenAPI schema allows and as it does not
	$(BIN)/python -m benchmarks.conformance

check: lint test audit schema  ## Everything that CI runs, the audit, and the long form of the schema's test

bench: dev  ## Measures the running service on this machine, and beside what people write around diffusers
	$(BIN)/python -m benchmarks.service && $(BIN)/python -m benchmarks.throughput && $(BIN)/python -m benchmarks.peers \
	    && $(BIN)/python -m benchmarks.engine

clients: dev  ## Installs other services' client programs, runs them against a service, and prints what works; options in ARGS
	$(BIN)/python -m scripts.clients $(ARGS)

chaos: dev  ## Kills and cuts off parts of a running service, and looks for what got lost; options in ARGS
	$(BIN)/python -m tests.chaos.storm $(ARGS) && $(BIN)/python -m tests.chaos.cancels

attack: dev  ## Attacks a service of its own, and judges answers, memory and times
	$(BIN)/python -m tests.attack

soak: dev  ## Ten minutes of mixed load on a running service; prints errors, and whether memory grows
	$(BIN)/python -m benchmarks.soak $(ARGS)

# For a machine with a card that has torch and reaches no network: the wheels of what else is needed, 64 MiB at most.
gpu-wheels:  ## Downloads what `make gpu` needs beside torch into gpu-wheels/; for another Python with ARGS=3.12
	$(PYTHON) -m scripts.gpu --bring $(or $(ARGS),$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))

gpu:  ## Looks on a card at what only a card shows, in eight minutes; without one on the CPU
	$(PYTHON) -m scripts.gpu $(ARGS)

build:  ## Builds the images; options in ARGS, e.g. ARGS="--build-arg TORCH=cpu"
	for image in $(IMAGES); do \
	    $(DOCKER) build $(ARGS) --build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
	        --target $${image#imagegen-} --tag $$image:latest . || exit 1; done

image-size:  ## Prints the compressed sizes of the images that were built
	@for image in $(IMAGES); do \
	    bytes=$$($(call SAVE,$$image:latest) | gzip -6 | wc -c); \
	    test $$bytes -gt 1000 || exit 1; \
	    printf '%s: %d MB compressed\n' $$image $$((bytes / 1000000)); done

secrets:  ## Makes the secrets of docker-compose.yml in secrets/, those that are not there yet
	@mkdir -p -m 700 secrets
	@umask 022; for name in postgres_password redis_password secret_key metrics_token grafana_password; do \
	    test -s secrets/$$name || $(PYTHON) -c 'import secrets; print(secrets.token_urlsafe(48))' > secrets/$$name; done
	@test -e secrets/hf_token || { umask 022; : > secrets/hf_token; }

fidelity: install  ## Measures how well the built-in model draws what its prompts say; options in ARGS
	$(BIN)/python -m benchmarks.fidelity $(ARGS)

clean:  ## Removes the environment and caches; the data folder stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage staticfiles
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
