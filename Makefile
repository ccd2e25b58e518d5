# `make sweep` runs the main job, `make test` what CI runs. Both set up .venv on their first run.

VENV := .venv
BIN := $(VENV)/bin
PYTEST_WORKERS ?= 2

# The first interpreter that runs, is new enough and can make environments; `make PYTHON=...` overrules it.
CHECK := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13; do \
	$$python -c '$(CHECK)' >/dev/null 2>&1 && { echo $$python; break; }; done)

# Stamps: what they name is installed until pyproject.toml or constraints.txt changes.
OLDEST := .venv-oldest
CREATED := $(VENV)/.created
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
PIP_INSTALL := $(BIN)/python -m pip install --no-input --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help sweep test test-oldest services setup lint types format coverage clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

sweep: $(INSTALLED) ## run the main job on the embedded model and data
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m sweeper -m lora.r=8,16 optim=adamw,adafactor,bnb8

test: lint types ## lint, check types, run the tests
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder

services: ## install what tests of servers and pages need besides Python (Debian, as root); else they are skipped
	@missing=""; for need in chromium:/usr/bin/chromium postgresql:/usr/lib/postgresql; do \
		[ -e "$${need#*:}" ] || missing="$$missing $${need%%:*}"; done; \
	[ -z "$$missing" ] || { apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; }

# make test-oldest KEEP=torch==2.13.0 takes that version of torch, whose oldest is a download of gigabytes.
test-oldest: $(CREATED) ## test trials with the oldest versions allowed, in a venv of their own
	$(BIN)/python -m venv --clear $(OLDEST)
	$(BIN)/python tests/support/oldest.py $(KEEP) > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --no-input --disable-pip-version-check \
		--constraint $(OLDEST)/constraints.txt --editable '.[dev]'
	$(OLDEST)/bin/python -m pytest tests/trainers tests/sweep/test_main_job.py

setup: $(INSTALLED_DEV) ## install everything that work on the code needs

lint: $(INSTALLED_DEV) ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED_DEV) ## check types
	$(BIN)/mypy

format: $(INSTALLED_DEV) ## fix style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

coverage: $(INSTALLED_DEV) ## run the tests and measure how much of sweeper/ they reach
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term

clean: ## remove .venv and what tools left behind; studies stay
	rm -rf $(VENV) $(OLDEST) .mypy_cache .pytest_cache .ruff_cache .coverage .coverage.* dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(CREATED):
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later with venv must be on PATH, but none was found:" \
		"install one, or name it with make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(INSTALLED): pyproject.toml constraints.txt | $(CREATED)
	$(PIP_INSTALL) --editable .
	@touch $@

# Holds all of $(INSTALLED) too, so `make sweep` after `make test` installs nothing.
$(INSTALLED_DEV): pyproject.toml constraints.txt | $(CREATED)
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $(INSTALLED) $@
