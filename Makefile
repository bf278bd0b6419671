# make demo           set everything up, run the demo sweep, rank its trials, build the best ensemble
# make test           set everything up, run linters and tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COMPOSE ?= $(shell docker compose version > /dev/null 2>&1 && echo docker compose || echo docker-compose)
BACKUP ?= backups/$(shell date -u +%Y-%m-%dT%H%M%SZ)

.PHONY: help setup demo test test-long test-compose chaos lint test-fast bench backup restore clean

help:
	@sed -n '1,/^PYTHON/{s/^# //p}' Makefile
	@echo "make lint           run ruff and mypy"
	@echo "make test-fast      run the tests without the slow ones"
	@echo "make test-long      run only the longest tests"
	@echo "make chaos          kill processes of sweeps 60 times at random, and compare the results"
	@echo "make test-compose   start, kill and restore the team server (root, Docker, debootstrap)"
	@echo "make bench          run benchmarks/"
	@echo "make backup         save the team server's databases and files into backups/"
	@echo "make restore BACKUP=backups/...   put a backup back"
	@echo "make clean          remove .venv"

setup: $(VENV)/.ready

# .ready is written last, so that an interrupted installation is repeated.
$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@echo "Setting up $(VENV): torch, segmentation-models-pytorch, optuna, mlflow (about 5 GB, once) ..."
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/orchestrate sweep sweeps/demo.yaml
	$(BIN)/orchestrate leaderboard demo
	$(BIN)/orchestrate best-ensemble demo --k 4
	@echo
	@echo "Where to look next:"
	@echo "  $(BIN)/orchestrate ui                            MLflow's page, sorted by val/miou, with images of every trial"
	@echo "  $(BIN)/orchestrate sweep sweeps/demo.yaml        again: nothing is trained twice"
	@echo "  $(BIN)/orchestrate sweep sweeps/losses.yaml --set data.source=YOUR.npz --plan"
	@echo "  sweeps/demo.yaml                                 the file that ran; copy it and change it"

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n auto --dist worksteal -m "not long and not chaos and not docker"

test-long: setup
	$(BIN)/pytest -n auto --dist worksteal -m long

test-compose: setup
	$(BIN)/pytest -n 0 -s -m docker tests/compose

chaos: setup
	ORCHESTRATE_CHAOS_KILLS=$${ORCHESTRATE_CHAOS_KILLS:-60} $(BIN)/pytest -n 0 -s tests/chaos

test-fast: setup
	$(BIN)/pytest -n auto --dist worksteal -m "not slow and not long and not chaos and not docker"

bench: setup
	$(BIN)/python benchmarks/upsample.py
	$(BIN)/python benchmarks/dispatcher.py
	$(BIN)/python benchmarks/plain_sweep.py
	$(BIN)/python benchmarks/ensemble.py

backup:
	COMPOSE="$(COMPOSE)" docker/backup.sh $(BACKUP)

restore:
	COMPOSE="$(COMPOSE)" docker/restore.sh $(BACKUP)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
