# `make demo` and `make test` do all the set-up on a fresh machine with Python 3.11, 3.12 or 3.13.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test test-all times docs lint format check notebooks lock clean

# editable_mode=compat: a path, not a finder, or a clone named kerasrec would hide the package from
# scripts beside it
$(STAMP): requirements.lock setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--config-settings editable_mode=compat -e .
	touch $(STAMP)

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/kerasrec demo

# one thread for each worker: two of two threads stand in each other's way on two cores
PYTEST := TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 OMP_NUM_THREADS=1 \
	$(BIN)/python -m pytest -n 2 --dist worksteal

# every module, without the slow tests: 9:12 on two cores (2026-12-01)
test: $(STAMP)
	$(PYTEST) -m "not slow"

# all tests, the slow ones too: exhaustive comparisons, notebooks, documents, kills
test-all: $(STAMP)
	$(PYTEST)

# tests/TIMES.md from the CPU seconds of the last run
times: $(STAMP)
	$(BIN)/python tests/helpers/cputimes.py

# the documentation site, opened from disk: build/site/index.html (with --quiet mkdocs would count no
# warning, and --strict would say nothing)
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict
	@echo "open build/site/index.html"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

notebooks: $(STAMP)
	$(BIN)/python -m pytest tests/test_notebooks.py

# exactly what CI runs
check: lint test-all

# needs uv; leaves no address in the file
lock:
	uv pip compile --universal --python-version 3.11 --override overrides.txt --generate-hashes \
		--no-emit-package kerasrec --no-header --no-annotate requirements.in -o requirements.lock

clean:
	rm -rf $(VENV) build .mypy_cache *.egg-info
