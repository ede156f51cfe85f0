# `make demo` shows it at work, `make test` checks it. Both set up what they need; `make help` lists the rest.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
PROJECT = $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
PYTEST = $(BIN)/python -m pytest
WORKERS ?= 2
# Ansible and Molecule look for their own programs on PATH.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test test-deploy lint deploy-lint unit integration molecule containers hosts bundle bench bench-deploy soak oracle mutation commit-mutation fuzz docs lock help clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/demo.installed ## the whole loop at work in under a minute; ARGS="--live", ARGS="--trades FILE"
	@$(BIN)/harvest-brain demo $(ARGS)

test: containers lint deploy-lint unit integration fault-tests molecule ## the rules, the whole on a real Redis, a deployment to bare hosts

test-deploy: SCENARIO =
test-deploy: export REQUIRE_CONTAINERS = 1
test-deploy: deploy-lint all-hosts molecule ## every deployment scenario; takes its time

lint: $(VENV)/dev.installed ## style, types, import laws
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict .

deploy-lint: $(VENV)/dev.installed $(VENV)/deploy.installed containers hosts bundle ## the roles: style, arguments, what they refuse
	$(BIN)/ansible-lint
	$(PYTEST) tests/deploy -n $(WORKERS)

unit: $(VENV)/dev.installed ## the rules, without Redis
	$(PYTEST) tests/unit -n $(WORKERS) --cov --cov-report=term:skip-covered
	$(BIN)/python -m coverage report --include='*/harvest_brain/core/*' --fail-under=100 --show-missing --skip-covered

integration: $(VENV)/dev.installed containers ## the real daemon against a real Redis
	$(PYTEST) tests/integration -n $(WORKERS)

.PHONY: fault-tests faults
fault-tests: $(VENV)/dev.installed ## nothing twice and nothing lost, in some hundred kills and at every point
	$(PYTEST) tests/faults tests/model -n $(WORKERS)

faults: $(VENV)/dev.installed ## the fault machine; ARGS="--seconds 3600 --record FILE", ARGS="--seed N"
	$(BIN)/python -m tests.faults $(ARGS)

# Without containers it says why it does nothing; with REQUIRE_CONTAINERS=1 that is a failure.
SCENARIO = default
molecule: $(VENV)/dev.installed $(VENV)/deploy.installed hosts bundle ## deploy to bare hosts with systemd; SCENARIO=NAME
	@molecule/run $(SCENARIO)

hosts:
	@tests/containers/prepare.sh debian12 debian13

.PHONY: all-hosts
all-hosts: hosts
	@tests/containers/prepare.sh ubuntu2204 ubuntu2404

containers: $(VENV)/dev.installed ## the container engine and the images that tests need
	@tests/containers/prepare.sh redis daemon

bundle: $(VENV)/build.installed ## what a host needs, in dist/: the same bytes every time
	@$(BIN)/python tools/bundle.py

BASE_IMAGE ?= python:3.12-slim-bookworm
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' service/harvest_brain/__init__.py)
.PHONY: image
image: ## the daemon's image as an archive in dist/, for harvest_runtime=container; BASE_IMAGE=IMAGE
	docker build --quiet --build-arg BASE_IMAGE=$(BASE_IMAGE) --tag localhost/harvest-brain:$(VERSION) .
	mkdir -p dist
	docker save --output dist/image-harvest-brain-$(VERSION).tar localhost/harvest-brain:$(VERSION)

bench: $(VENV)/dev.installed ## how fast it works off a backlog
	$(BIN)/python -m tests.bench.backlog $(ARGS)

bench-deploy: $(VENV)/dev.installed $(VENV)/deploy.installed hosts bundle ## a deployment, and one with nothing to do
	$(BIN)/python -m tests.bench.deploy $(ARGS)

# Fuzzing, mutation testing and the oracle want packages that not every platform has, so each set has its own environment.
EXTRAS := .venv-extras
ORACLE := .venv-oracle
oracle: $(ORACLE)/installed ## the accounting against NautilusTrader's
	$(ORACLE)/bin/python -c 'import nautilus_trader'
	$(ORACLE)/bin/python -m pytest tests/oracle

# MUTANTS may be a pattern, such as "harvest_brain.core.policy*".
mutation: $(EXTRAS)/installed ## what the core's tests miss when the code is changed; hours; MUTANTS="PATTERN"
	rm -rf .mutation && mkdir .mutation
	cp -r service .mutation/src && cp -r tests pyproject.toml .mutation/
	cd .mutation && HYPOTHESIS_PROFILE=mutation nice ../$(EXTRAS)/bin/mutmut run --max-children $(WORKERS) $(MUTANTS)
	cd .mutation && ../$(EXTRAS)/bin/mutmut results

commit-mutation: $(VENV)/dev.installed ## the same for commit.lua, against a real Redis; half an hour
	nice $(BIN)/python -m tests.mutation.commit $(ARGS)

SECONDS ?= 600
fuzz: $(EXTRAS)/installed ## arbitrary entries, guided by coverage, for SECONDS=600
	mkdir -p .fuzz/found
	$(EXTRAS)/bin/python -m tests.fuzz.decode_fuzz -max_total_time=$(SECONDS) -max_len=2048 -len_control=0 \
		-dict=tests/fuzz/words.dict -artifact_prefix=.fuzz/ .fuzz/found tests/fuzz/corpus

docs: $(VENV)/dev.installed ## write what is made: the env example, the README's settings, the table of incidents
	$(BIN)/python -m tests.incidents >docs/incidents.md
	$(BIN)/harvest-brain env-template >harvest-brain.env.example
	$(BIN)/harvest-brain settings-table >README.table
	sed -e '/<!-- settings -->/r README.table' -e '/<!-- settings -->/,/<!-- \/settings -->/{//!d;}' README.md >README.new
	mv README.new README.md
	rm README.table

soak: $(VENV)/dev.installed ## an hour under load: does memory stay flat? ARGS="--seconds 600"
	$(BIN)/python -m tests.bench.soak $(ARGS)

lock: ## pin the dependencies anew, from pyproject.toml (needs uv)
	requirements/lock.sh

clean: ## remove what was set up
	rm -rf $(VENV) $(EXTRAS) $(ORACLE) .mutation .fuzz .containers build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, and none was found on PATH" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { \
		rm -rf $(VENV); \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null && \
		$(PYTHON) -m venv $(VENV); } || { echo "python3 can't make a virtual environment; on Debian: apt install python3-venv" >&2; exit 1; }

.venv-%/installed: requirements/%.txt pyproject.toml | $(VENV)/bin/python
	@$(BIN)/python -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/%.installed: requirements/%.txt pyproject.toml | $(VENV)/bin/python
	@$(PIP_INSTALL) --require-hashes --requirement $<
	@$(PROJECT)
	@touch $@
