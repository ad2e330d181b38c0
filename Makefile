# Everything runs inside .venv, which the first target that needs it makes with pip under constraints.txt.
# Another interpreter: make PYTHON=python3.12 test

PYTHON ?= python3
BIN := .venv/bin
CODE := src tests $(wildcard benchmarks docs examples)

.DEFAULT_GOAL := help
# Tests run side by side, one process a core: libraries with threads of their own would fight for the cores.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 CONVSMITH_THREADS=2
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup demo test check format bench docs clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.dev-stamp  ## make .venv with everything that development needs

demo: .venv/.demo-stamp  ## rewrite the shipped network on the shipped photographs, and report
	$(BIN)/convsmith optimize examples/restorer/restorer.onnx \
	  --data examples/restorer/photographs/calibration --test examples/restorer/photographs/test \
	  --macs 0.5 --strategy fast -o build/demo --force

test: check  ## lint, types and all tests
	$(ONE_THREAD) $(BIN)/pytest -n auto

check: .venv/.dev-stamp  ## lint, formatting and types
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy $(CODE)

format: .venv/.dev-stamp  ## format the code and fix what can be fixed
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

bench: .venv/.dev-stamp  ## measure against those peers of the extra `bench` that are installed
	$(BIN)/python benchmarks/rewrite.py
	$(BIN)/python benchmarks/rewrite_speed.py
	$(BIN)/python benchmarks/analysis.py
	$(BIN)/python benchmarks/convolution.py
	$(BIN)/python benchmarks/network.py

docs: .venv/.docs-stamp  ## build the documentation: build/docs/index.html
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs build/docs
	@echo 'open build/docs/index.html'

clean:  ## remove build outputs and caches (.venv stays: rm -rf .venv starts afresh)
	rm -rf build dist src/*.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find $(CODE) -type d -name __pycache__ -prune -exec rm -rf {} +

# An install is unfinished until pip has returned: what an interrupted one leaves behind is not mended but
# replaced, because half a package can look like a whole one.
.venv/.demo-stamp: EXTRAS := onnxruntime
.venv/.dev-stamp: EXTRAS := onnxruntime,torch,dev
.venv/.docs-stamp: EXTRAS := torch,docs
.venv/.demo-stamp .venv/.dev-stamp .venv/.docs-stamp: pyproject.toml constraints.txt $(wildcard .venv/.unfinished)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'convsmith needs Python 3.11 or newer, for example: make PYTHON=python3.12 $(MAKECMDGOALS)' >&2; exit 1; }
	@if test -e .venv/.unfinished || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  echo 'making .venv; the first install takes a minute or more' && $(PYTHON) -m venv --clear .venv; fi
	@touch .venv/.unfinished
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@rm .venv/.unfinished
	@touch $@
