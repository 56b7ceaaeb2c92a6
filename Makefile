# Every target sets up what it needs: a virtual environment in .venv with the package in it.

PYTHON ?= python3
# On machines with a GPU, choose your build here: make train TORCH="torch --index-url ..."
TORCH ?= torch==2.13.0
BIN := .venv/bin
SETUP := .venv/.installed

.PHONY: help train test check tensorboard clean
.DEFAULT_GOAL := help

help:  ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

train: $(SETUP)  ## teach a tiny policy with DAPO on this machine (about ten minutes on two cores)
	$(BIN)/python train.py

test: $(SETUP)  ## run all tests
	$(BIN)/python -m pytest

check: $(SETUP)  ## lint, import order, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tensorboard: $(SETUP)  ## look at all runs under outputs/
	$(BIN)/tensorboard --logdir outputs

clean:  ## remove the environment and caches; outputs/ stays
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(SETUP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $(SETUP)
