# Everything runs in .venv, which is made here from nothing but python3 >= 3.11.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test test-faults fuzz test-lowest lint bench docs notebooks wheel release-check clean
.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.installed ## few network calls on digits: train, measure plain against regularized, report
	$(BIN)/undrift demo

test: .venv/.installed-dev ## run the tests and the doctests
	$(BIN)/python -m pytest -n 2

test-faults: .venv/.installed-dev ## kill commands and fill their disk at every file operation; takes minutes
	$(BIN)/python tests/faults/trials.py

fuzz: .venv/.installed-dev ## change files of every kind, guided by coverage; takes an hour
	$(INSTALL) ".[fuzz]"
	$(BIN)/python tests/fuzz/run.py

test-lowest: ## run the tests with the lowest versions that pyproject.toml allows; LOWEST=torch=2.13.0 sets one
	$(PYTHON) -m venv --clear .venv-lowest
	$(PYTHON) .ci/lowest.py $(LOWEST) > .venv-lowest/requirements.txt
	.venv-lowest/bin/python -m pip install --disable-pip-version-check --quiet \
		-r .venv-lowest/requirements.txt -e .
	.venv-lowest/bin/python -m pytest -n 2

lint: .venv/.installed-dev ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.installed ## measure the cost of each part as a ratio; writes bench.json
	$(BIN)/python benchmarks/run.py

docs: .venv/.installed-docs ## build the pages into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebooks: .venv/.installed-docs ## execute the tutorials and keep their outputs; takes minutes
	$(BIN)/python docs/notebooks.py

wheel: .venv/.installed-dev ## build the source distribution, and from it the wheel, into dist/
	rm -rf dist
	$(BIN)/python -m build

release-check: wheel ## install the wheel into an empty environment outside of here and run it there
	bash .ci/release-check

clean: ## remove what the other targets made, runs/ excepted
	rm -rf .venv .venv-lowest site dist build bench.json .pytest_cache .mypy_cache .ruff_cache

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
