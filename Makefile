# `make demo` and `make test` need Python >= 3.10, make and a compiler, and set up the rest in .venv; a second run reuses it.
#
#   make PYTHON=python3.12           another interpreter
#   make TORCH_INDEX=URL             one more package index for torch, e.g. that of its CPU builds, which are much smaller
#   make TESTS=tests/test_cli.py     some of the tests

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
TESTS ?=

BIN := $(VENV)/bin
DEMO := $(VENV)/.demo
STAMP := $(VENV)/.stamp
PIP := $(BIN)/python -m pip --disable-pip-version-check
OLDEST := .venv-oldest
OLDEST_TRANSFORMERS := $(shell sed -n 's/.*"transformers>=\([0-9.]*\)".*/\1/p' pyproject.toml)
TORCH := $(shell grep '^torch==' constraints.txt)
# For tests. They ask for torchvision, tensorflow and torchaudio, which the tests replace by stubs or do without.
GUESTS := $(shell grep -E '^(timm|hearvalidator|xares)==' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-kernels test-browser test-slow test-transformers lint format clean

help:
	@echo 'make demo          the whole pipeline on real recordings, into runs/demo'
	@echo 'make test          lint, types and the tests'
	@echo 'make test-kernels  the CUDA kernels, in an interpreter on the CPU (installs Triton, 700 MB)'
	@echo 'make test-browser  the pages of `aape explore` and `aape plot run` in Chromium (needs it, and selenium)'
	@echo 'make test-slow     the tests that take longer'
	@echo 'make test-transformers  the Hugging Face classes, with the oldest transformers that pyproject.toml allows'
	@echo 'make lint          lint and types only'
	@echo 'make format        let ruff fix and format the code'
	@echo 'make clean         remove the environment and caches'

setup: $(STAMP)

# torch comes first and alone: whatever else pulls it in takes the largest build there is.
$(DEMO): pyproject.toml constraints.txt hatch_build.py src/aape/ops/sblu.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "aape needs Python 3.10 or later (make PYTHON=...), this is " + sys.version)'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(PIP) install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(TORCH)
	PIP_CONSTRAINT=constraints.txt $(PIP) install --editable '.[explore]'
	@touch $@

$(STAMP): $(DEMO)
	PIP_CONSTRAINT=constraints.txt $(PIP) install --editable '.[dev]'
	$(PIP) install --no-deps $(GUESTS)
	@touch $@

demo: $(DEMO)
	$(BIN)/aape demo --out runs/demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes of one thread each are faster than threads that compete for the cores; a file, with its fixtures, is for one.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile $(TESTS)

test-kernels: $(STAMP)
	PIP_CONSTRAINT=constraints.txt $(PIP) install --quiet triton
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(BIN)/pytest -n 2 tests/ops/test_sblu_triton.py

# SCREENSHOTS=folder keeps what the browser showed.
test-browser: $(STAMP)
	@command -v chromium chromedriver > /dev/null || { echo 'it needs a browser: apt install chromium chromium-driver'; exit 1; }
	@$(BIN)/python -c 'import selenium' 2> /dev/null || { echo 'it needs selenium: $(BIN)/pip install selenium'; exit 1; }
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow tests/explorer/test_browser.py tests/analysis/test_run_page.py

test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'slow and not gpu' $(TESTS)

# The environment of today but for transformers and what goes with it.
test-transformers:
	test -x $(OLDEST)/bin/pip || $(PYTHON) -m venv $(OLDEST)
	grep -vE '^(transformers|huggingface-hub|tokenizers)==' constraints.txt > $(OLDEST)/constraints.txt
	PIP_CONSTRAINT=$(OLDEST)/constraints.txt $(OLDEST)/bin/pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) $(TORCH)
	PIP_CONSTRAINT=$(OLDEST)/constraints.txt $(OLDEST)/bin/pip install --editable '.[hub]' transformers==$(OLDEST_TRANSFORMERS) pytest pytest-xdist
	OMP_NUM_THREADS=1 $(OLDEST)/bin/pytest -n 2 --dist loadfile tests/huggingface

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(OLDEST) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
