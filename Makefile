# `make demo` and `make test` set up .venv by themselves; everything else assumes nothing either.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup demo test lint types bench lock clean

help:
	@echo 'make demo   set up, collect data, train DFP on a MuJoCo task, draw learning_curve.png'
	@echo 'make test   set up, run every test'
	@echo 'make lint   set up, run ruff'
	@echo 'make types  set up, run the type checker'
	@echo 'make bench  set up, run the benchmarks, write exp/benchmarks.md'
	@echo 'make lock   resolve requirements.in into requirements.txt'

setup: $(READY)

$(READY): requirements.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
	@touch $(READY)

demo: $(READY)
	$(BIN)/python main.py --flagfile=experiments/quickstart.flags

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

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
