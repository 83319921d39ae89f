# `make demo` and `make test` set up .venv by themselves; everything else assumes nothing either.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup demo test lint types bench lock clean

help:
	@echo 'make demo   set up, collect data, train DFP on a MuJoCo task, draw learning_curve.png'
	@echo 'make test   set up, run every test'
	@echo 'make setup  set up .venv; with PYTHON=python3.12, for that Python'
	@echo 'make lint   set up, run ruff'
	@echo 'make types  set up, run the type checker'
	@echo 'make bench  set up, run the benchmarks, write exp/benchmarks.md'
	@echo 'make lock   resolve requirements.in into requirements.txt'

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

$(READY): requirements.txt $(REMAKE)
	$(if $(REMAKE),$(make_venv))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
	@touch $(READY)

.PHONY: remake
remake:

demo: $(READY)
	$(BIN)/python main.py --flagfile=experiments/quickstart.flags

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/basedpyright

bench: $(READY)
	$(BIN)/python -m benchmarks

lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet uv
	.venv-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
	  requirements.in --override requirements-overrides.txt --output-file requirements.txt
	rm -rf .venv-lock

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
