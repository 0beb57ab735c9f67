# The same commands for people and for CI. PYTHON names the interpreter to build the environment with.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e
FRESH := build/fresh
AUDIT_FLAGS ?=

# Of make torture and make fuzz: the seed, for how long new schedules begin, and cases of each kind.
SEED ?= 1
MINUTES ?= 30
CASES ?= 5000

.PHONY: help install sample serve test quick lint types docs wheel audit sbom fuzz benchmark torture clean

help:
	@echo "make sample     install what a flow needs, then cluster paths of 2,000 drawn faces; prints the path of the report"
	@echo "make serve      install the server too, then serve the published sets at http://127.0.0.1:8000"
	@echo "make install    install everything: all extras (PyTorch among them) and what develops and tests"
	@echo "make test       install everything, then lint, types and all tests: half an hour on two cores"
	@echo "make quick      install everything, then lint, types and the tests of the library: three minutes"
	@echo "make fuzz       thousands of broken and random inputs for everything that is read: CASES=5000 of each kind, SEED=1"
	@echo "make docs       install everything, then the documentation in build/site, with its notebooks executed: one minute"
	@echo "make wheel      sdist and wheel in dist/; the wheel runs its sample in an environment of its own"
	@echo "make audit      known vulnerabilities of the packages in constraints.txt; needs a network"
	@echo "make sbom       the installed packages with their licences as a CycloneDX document: build/sbom.json"
	@echo "make benchmark  speed, memory, bytes and start-up, compared with a baseline: benchmarks/results/suite.md (one to two hours)"
	@echo "make torture    random runs under random faults, checked after each: make torture SEED=7 MINUTES=10 (docs/torture.md)"
	@echo "make clean      remove the environment and the builds, but not data, models or results"

install: $(VENV)/.installed

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, {sys.executable} is {v.major}.{v.minor}: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# An environment with everything is good for the smaller ones, too.
$(VENV)/.flows: pyproject.toml constraints.txt | $(VENV)/.made
	$(INSTALL) '.[prefect]'
	@touch $@

$(VENV)/.serves: pyproject.toml constraints.txt | $(VENV)/.made
	$(INSTALL) '.[prefect,serve]'
	@touch $(VENV)/.flows $@

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.made
	$(INSTALL) '.[dev]'
	@touch $(VENV)/.flows $(VENV)/.serves $@

sample: $(VENV)/.flows
	$(BIN)/python flows/celeba.py --sample

serve: $(VENV)/.serves
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

# Finds are printed, and written to build/fuzz; `python -m tests.fuzz KIND --only SEED CASE` runs one of them again.
fuzz: install
	$(BIN)/python -m tests.fuzz --cases $(CASES) --seed $(SEED)

# Strictly: a link that leads nowhere, a page that is not in the navigation or a cell that fails ends it.
docs: install
	$(BIN)/python docs/build_site.py

# As a new user has it: nothing but the base installation, and an empty directory. At most 900 MB.
wheel:
	rm -rf dist build
	$(PYTHON) -m venv build/tools
	build/tools/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt build twine
	build/tools/bin/python -m build
	build/tools/bin/twine check --strict dist/*
	$(PYTHON) -m venv $(FRESH)
	$(FRESH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	mkdir $(FRESH)/empty
	cd $(FRESH)/empty && ../bin/clusterpaths sample
	@size=$$(du -sm $(FRESH)/lib | cut -f1); echo "The base installation has $$size MB."; test $$size -le 900

# Strictly: without --strict, pip-audit exits with 0 and "No known vulnerabilities" where PyPI does not answer. AUDIT_FLAGS is for another
# database, such as AUDIT_FLAGS="--vulnerability-service osv --osv-url https://osv.internal.example/v1/query".
audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip-audit
	build/audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt $(AUDIT_FLAGS)

sbom: install
	@mkdir -p build
	$(BIN)/cyclonedx-py environment --gather-license-texts --pyproject pyproject.toml --output-reproducible --validate \
		--output-format JSON --output-file build/sbom.json $(BIN)/python
	@echo "build/sbom.json"

benchmark: install
	$(BIN)/python benchmarks/suite.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/load.py

torture: install
	$(BIN)/python -m tests.torture --seed $(SEED) --minutes $(MINUTES)

clean:
	rm -rf $(VENV) dist build
