# Everything runs in .venv, which is made here from nothing but python3 >= 3.11.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test test-faults lint bench docs clean
.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.installed ## few network calls on digits: train, measure plain against regularized, report
	$(BIN)/undrift demo

test: .venv/.installed-dev ## run the tests and the doctests
	$(BIN)/python -m pytest -n 2

test-faults: .venv/.installed-dev ## kill commands and fill their disk at every file operation; takes minutes
	$(BIN)/python tests/faults/trials.py

lint: .venv/.installed-dev ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.installed ## measure the cost of each part as a ratio; writes bench.json
	$(BIN)/python benchmarks/run.py

docs: .venv/.installed-docs ## build the pages into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## remove what the other targets made, runs/ excepted
	rm -rf .venv site dist build bench.json .pytest_cache .mypy_cache .ruff_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "undrift needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv

# A stamp says that .venv holds what pyproject.toml and constraints.txt ask for.
.venv/.installed: .venv/bin/python pyproject.toml constraints.txt
	@echo 'Installing undrift into .venv; the first time takes a few minutes.'
	$(INSTALL) .
	@touch $@

.venv/.installed-dev: .venv/.installed
	$(INSTALL) ".[dev]"
	@touch $@

.venv/.installed-docs: .venv/.installed
	$(INSTALL) ".[docs]"
	@touch $@
