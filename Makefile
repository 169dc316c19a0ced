# Every command of the project. `make help` lists them; each works on a fresh machine with Python 3.11 to 3.13.
#   another interpreter    make test PYTHON=python3.12            (its virtual environment is .venv-python3.12)
#   an accelerator         make setup ACCELERATOR=cuda            (or tpu: adds requirements-$(ACCELERATOR).txt)

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Without PYTHON=… the first of these that is Python 3.11 to 3.13 is taken.
PYTHONS := $(if $(filter command%,$(origin PYTHON)),$(PYTHON),python3 python3.13 python3.12 python3.11)
VENV ?= $(if $(filter command%,$(origin PYTHON)),.venv-$(notdir $(PYTHON)),.venv)
ACCELERATOR ?=
WORKERS ?= 2
MATRIX ?= 3.11 3.12 3.13
FUZZ_SECONDS ?= 600
OTHER_TESTS := slow or torch or browser or multihost or aot

ifneq ($(ACCELERATOR),)
ifeq ($(wildcard requirements-$(ACCELERATOR).txt),)
$(error ACCELERATOR=$(ACCELERATOR): want cuda or tpu)
endif
endif

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet
RUNTIME := $(VENV)/.runtime$(addprefix -,$(ACCELERATOR))
DEV := $(VENV)/.dev
TORCH := $(VENV)/.torch
AOT := $(VENV)/.aot

PYTEST := $(BIN)/python -m pytest --quiet --numprocesses $(WORKERS) --dist worksteal

.PHONY: help setup sample test test-slow test-all test-matrix fuzz lint format bench plans train-quick clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(RUNTIME) ## the virtual environment with what lumina_jax needs to run

sample: $(RUNTIME) ## paint four prompts at four sizes with the shipped model: samples/contact_sheet.png
	$(BIN)/python sample.py --contact-sheet samples/contact_sheet.png

train-quick: $(RUNTIME) ## train a small model from nothing in half an hour; the same command resumes it
	$(BIN)/python train.py configs/scenes_quick.py --cpu-devices 2

test: $(DEV) ## the tests that every change must pass
	QUICK_COMPILES=1 $(PYTEST)

test-slow: $(DEV) ## the tests that `make test` leaves out: slow, several processes, PyTorch where one asks for it
	@if grep -rqE 'mark\.torch|importorskip\("torch' tests --include='*.py'; then $(MAKE) --no-print-directory $(TORCH); fi
	@if [ "$$(uname -sm)" = "Linux x86_64" ]; then $(MAKE) --no-print-directory $(AOT); fi
	$(PYTEST) -m "$(OTHER_TESTS)"

test-all: test test-slow ## every test

test-matrix: ## `make test` under each Python of MATRIX
	@set -eo pipefail; for version in $(MATRIX); do \
	  found=; \
	  for candidate in python$$version "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version.*/bin/python$$version; do \
	    if "$$candidate" --version >/dev/null 2>&1; then found=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then echo "error: no python$$version on this machine: install it, or name others with MATRIX=" >&2; exit 1; fi; \
	  echo "python$$version: $$found"; \
	  $(MAKE) --no-print-directory test PYTHON="$$found" VENV=.venv-python$$version; \
	done

fuzz: $(DEV) ## read mutated weight files for FUZZ_SECONDS, ten minutes unless told
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest --quiet tests/convert/test_fuzz.py

lint: $(DEV) ## formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(DEV) ## write the formatting and the safe lint fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(RUNTIME) ## every benchmark; prints tables for docs/benchmarks.md
	@set -e; for script in $(filter-out benchmarks/plans.py,$(wildcard benchmarks/[a-z]*.py)); do echo "== $$script"; PYTHONPATH=. $(BIN)/python "$$script"; done

plans: $(AOT) ## compile the large runs for the TPUs they are meant for; an hour or two, no TPU needed
	PYTHONPATH=. $(BIN)/python benchmarks/plans.py

clean: ## remove what tests, samples and builds left; keeps runs/ and the virtual environments
	rm -rf .cache .pytest_cache .ruff_cache build samples *.egg-info
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## also the virtual environments
	rm -rf .venv .venv-*

# A fresh virtual environment, or one clear line about what is missing.
$(BIN)/python:
	@for python in $(PYTHONS); do \
	  "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || continue; \
	  "$$python" -c 'import ensurepip, venv' 2>/dev/null \
	    || { echo "error: $$python cannot make virtual environments: install its venv package (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }; \
	  echo "virtual environment $(VENV) with $$("$$python" --version)"; \
	  exec "$$python" -m venv --clear $(VENV); \
	done; \
	echo "error: want Python 3.11, 3.12 or 3.13, found none among: $(PYTHONS). Name one: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; exit 1

$(RUNTIME): requirements.txt $(wildcard requirements-$(ACCELERATOR).txt) | $(BIN)/python
	@echo "installing $^ into $(VENV) (once, a few minutes)"
	@$(PIP) $(addprefix -r ,$^)
	@touch $@

$(DEV): requirements-dev.txt $(RUNTIME)
	@echo "installing $< into $(VENV)"
	@$(PIP) -r requirements.txt -r $<
	@touch $@

# torch-fidelity comes without torchvision, whose wheel does not load beside torch's CPU build; the package "tests" that
# its own wheel holds would hide this project's from processes that tests start.
$(TORCH): requirements-torch.txt requirements-evals.txt $(DEV)
	@echo "installing $< into $(VENV)"
	@$(PIP) -r requirements.txt -r $<
	@$(PIP) --no-deps "$$(grep ^torch-fidelity requirements-evals.txt)"
	@rm -rf "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tests"
	@touch $@

# The TPU's compiler alone, for tests and plans on machines without one: JAX itself goes on as it is.
$(AOT): requirements-tpu.txt $(DEV)
	@echo "installing libtpu into $(VENV)"
	@$(PIP) -r requirements.txt -r $<
	@touch $@
