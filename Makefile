# Every target sets up .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
DEV := .venv/.ready-dev
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal

.PHONY: help setup demo test test-all learns lint types bench lock clean

help:
	@echo 'make demo      collect data, train DFP-MS on a MuJoCo task, draw learning_curve.png'
	@echo 'make test      run the tests, but for those that start programs, kill or wait'
	@echo 'make test-all  run every test'
	@echo 'make learns    check that the quickstart learns (8 minutes)'
	@echo 'make setup     set up .venv; PYTHON=python3.12: for that Python; JAX=cuda13 (cuda12, tpu):'
	@echo '               with JAX for that accelerator'
	@echo 'make lint      run ruff'
	@echo 'make types     run the type checker'
	@echo 'make bench     run the benchmarks, write exp/benchmarks.md'
	@echo 'make lock      resolve requirements.in and requirements-dev.in into .txt files'

# A .venv is made anew if it is unfinished, if its Python is gone, or if another one is asked for.
describe = $(shell $(1) -c 'import sys; print(sys.base_prefix, sys.version)' 2>/dev/null)
ifeq ($(and $(wildcard $(READY)),$(wildcard $(BIN)/python)),)
  REMAKE := remake
else ifneq ($(origin PYTHON),file)
  ifneq ($(call describe,$(PYTHON)),$(call describe,$(BIN)/python))
    REMAKE := remake
  endif
endif

define make_venv
@$(PYTHON) -c '' 2>/dev/null || \
  { echo "$(PYTHON): no such Python here; install Python 3.11, 3.12 or 3.13, or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; exit 1; }
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "$(PYTHON): is older than Python 3.11; name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
$(PYTHON) -m venv --clear .venv
endef

setup: $(READY)
	$(if $(JAX),$(PIP) -c requirements.txt 'jax[$(JAX)]')

$(READY): requirements.txt $(REMAKE)
	$(if $(REMAKE),$(make_venv))
	$(PIP) --no-deps -r requirements.txt
	@touch $(READY)

$(DEV): requirements-dev.txt $(READY)
	$(PIP) --no-deps -r requirements-dev.txt
	@touch $(DEV)

.PHONY: remake
remake:

demo: $(READY)
	$(BIN)/python main.py --flagfile=experiments/quickstart.flags

test: $(DEV)
	$(PYTEST) -m 'not slow'

test-all: test
	$(PYTEST) -m slow --dist loadfile  # fixtures of these files take a minute

learns: $(READY)
	$(BIN)/python -m tests.learns

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/basedpyright

bench: $(READY)
	$(BIN)/python -m benchmarks

COMPILE := .venv-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock'

lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet uv
	$(COMPILE) requirements.in --override requirements-overrides.txt --output-file requirements.txt
	$(COMPILE) requirements-dev.in --output-file requirements-dev.txt
	rm -rf .venv-lock

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
