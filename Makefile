# make run: the default experiment and its report. make test: the tests. Each makes the environment that it needs, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES ?= all
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run test check audit test-slurm test-knocks

run: $(VENV)/run.ready
	$(BIN)/snakemake --cores $(CORES)
	@$(MAKE) --no-print-directory results/report.html
	@echo "Open results/report.html in a browser."

# Made again when a figure, a table or a caption is newer.
results/report.html: $(wildcard results/figures/*/*.png results/tables/*/*.html) $(wildcard workflow/report/*.rst uncouple/reporting/*/*.py uncouple/evaluation/judges/*.py)
	$(BIN)/snakemake --cores 1 --report $@

test: $(VENV)/test.ready
	$(BIN)/python -m pytest

# The workflow on a real SLURM of one node, which it installs and starts, as root, and stops again.
test-slurm: $(VENV)/test.ready
	$(BIN)/python -m pytest -n0 -m slurm

# The workflow killed at thirty points, its results spoilt, two runs of it in one folder, and clocks that differ.
test-knocks: $(VENV)/test.ready
	$(BIN)/python -m pytest -n0 -m knocks

# Lints and slower suites, for CI and before a change is sent in.
check: $(VENV)/test.ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/snakefmt --check workflow rules
	$(BIN)/snakemake --lint
	$(BIN)/python -m pytest -m slow
	@$(BIN)/python envs/audit.py || [ $$? -eq 2 ]

# Whether a pinned package has a known vulnerability. It fails where one has, and where that could not be learnt.
audit: $(VENV)/test.ready
	$(BIN)/python envs/audit.py

$(VENV)/run.ready: envs/requirements.txt envs/constraints.txt
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed: make PYTHON=python3.11 run"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement envs/requirements.txt --constraint envs/constraints.txt
	touch $@

$(VENV)/test.ready: $(VENV)/run.ready envs/requirements-test.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement envs/requirements-test.txt --constraint envs/constraints.txt
	touch $@
