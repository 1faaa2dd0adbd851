# `make help` lists the targets. Everything runs in .venv, which the first of them makes.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
# One thread a worker; glibc keeps memory that is freed instead of asking for it again, page by page.
TEST_ENV := OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=4294967296 \
	MALLOC_TOP_PAD_=67108864

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test check docs format clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## .venv with the pinned requirements and hrpose itself

$(READY): requirements.txt setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $(READY)

quickstart: $(READY) ## draw a synthetic set, train a small network on it, evaluate: 10 to 30 minutes
	$(BIN)/python tools/synthesize.py --output data/synthetic
	$(BIN)/python tools/train.py --cfg configs/quickstart.yaml

test: $(READY) ## every test but those marked long
	$(TEST_ENV) $(BIN)/python -m pytest -n auto

check: $(READY) ## format, lint, types and the fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(TEST_ENV) $(BIN)/python -m pytest -n auto -q -m "not slow and not long"

docs: $(READY) ## write docs/options.md anew
	$(BIN)/python -c "from hrpose.config.options import as_markdown; print(as_markdown(), end='')" > docs/options.md

format: $(READY) ## put the code in its usual form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove .venv and caches, never data/ or output/
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache lib/*.egg-info
