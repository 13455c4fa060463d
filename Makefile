# Everything runs in .venv, which is made when it is missing (another place: make VENV=/path ...).
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: help setup test test-fast lint

help: ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## make the environment from pyproject.toml and constraints.txt

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "xlt needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

test: setup ## all tests: about seven minutes on two cores
	$(BIN)/python -m pytest

test-fast: setup ## without the slow ones
	$(BIN)/python -m pytest -m 'not slow'

lint: setup ## style and simple mistakes
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
