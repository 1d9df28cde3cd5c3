PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-fast lint bench docs

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	touch $@

.venv/.ready: .venv/.installed
	$(PIP) -e '.[dev]'
	touch $@

.venv/.servers: .venv/.ready
	$(PIP) -e '.[servers]'
	touch $@

demo: .venv/.installed      ## the main job end to end on a sample shop
	$(BIN)/audience-sync demo

PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadgroup

test: .venv/.servers        ## the whole suite, with all the databases that it starts: a gigabyte
	$(PYTEST)

test-fast: .venv/.ready     ## without the slow half
	$(PYTEST) -m 'not slow'

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

bench: .venv/.ready         ## prints the tables of docs/benchmarks.md
	$(BIN)/python benchmarks/baseline.py
	$(BIN)/python benchmarks/delivery.py
	$(BIN)/python benchmarks/diff.py
	$(BIN)/python benchmarks/relay.py

docs: .venv/.ready          ## writes the help texts into docs/commands.md
	$(BIN)/python docs/write_commands.py
