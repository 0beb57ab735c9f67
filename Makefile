# The same commands for people and for CI. PYTHON names the interpreter to build the environment with.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help install sample serve test quick lint types benchmark clean

help:
	@echo "make sample     install, then cluster paths of 2,000 drawn faces; prints the path of the report"
	@echo "make serve      install, then serve the published sets at http://127.0.0.1:8000"
	@echo "make test       install, then lint, types and all tests: ten minutes on two cores"
	@echo "make quick      install, then lint, types and the tests of the library: three minutes"
	@echo "make benchmark  speed, memory, bytes and start-up, compared with a baseline: benchmarks/results/suite.md (one to two hours)"
	@echo "make clean      remove the environment, but not data, models or results"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, {sys.executable} is {v.major}.{v.minor}: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,dask]'
	@touch $@

sample: install
	$(BIN)/python flows/celeba.py --sample

serve: install
	$(BIN)/clusterpaths serve

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# What runs in one process, and in which order, is in tests/conftest.py; three processes, because one of them mostly waits.
test: lint types
	$(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder

quick: lint types
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder tests/clusterpaths tests/test_house.py

benchmark: install
	$(BIN)/python benchmarks/suite.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/load.py

clean:
	rm -rf $(VENV)
