SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
WORKERS = $(shell $(PYTHON) -c 'import os; print(os.cpu_count() + 2)') # some tests wait for servers and locks

.PHONY: help setup demo test lint docs pretrain clean

help: ## show the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: .venv/.ready ## fresh machine -> .venv with pinned requirements and the project

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; for another interpreter: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## the 8-task table of every paper method on the embedded benchmark
	$(BIN)/tsv-exp experiment=demo

test: setup ## the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: setup ## formatting, lint, import contracts and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

docs: setup ## the documentation site, in build/site; a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

pretrain: setup ## train the embedded benchmark's base model from scratch (about 7 minutes on 2 cores)
	$(BIN)/python -m tsv_exp.models.tiny.pretrain

clean: ## remove the environment and tool caches, but no outputs
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
