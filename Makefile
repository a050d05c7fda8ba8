# One command each: demo, test, lint, docs, bench, ablation, clean. The environment .venv is made on first use.

SHELL := bash
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help demo test lint docs bench ablation clean

PYTHON ?= $(firstword $(foreach python,python3.11 python3,$(shell $(python) -c \
	'import sys; print("$(python)") if sys.version_info >= (3, 11) else None' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
INPUTS := pyproject.toml constraints.txt

# Shows large downloads and how many packages come; the full output of the last step is in .venv/pip.log.
install = set -o pipefail; $(BIN)/python -m pip install $(1) 2>&1 | tee $(VENV)/pip.log | awk ' \
	/(Downloading|Using cached) .*MB/ { name = $$2; sub(/-(cp|py)[0-9].*/, "", name); print "    " name, $$(NF - 1), $$NF } \
	/^Installing collected/ { print "    unpacking", NF - 3, "packages" } \
	{ fflush() }' \
	|| { tail -n 30 $(VENV)/pip.log; echo "Installation failed; the full output is in $(VENV)/pip.log." >&2; exit 1; }

help:
	@echo "make demo   impute a synthetic section, or a real one of the folder SNRMIX_DATA, and draw it in demo/"
	@echo "make test   check style and types, and run the tests"
	@echo "make lint   check style and types only"
	@echo "make docs   build the documentation in docs/_build/html"
	@echo "make bench  measure on real sections (SNRMIX_DATA names their folder)"
	@echo "make ablation  measure what each choice of the method is worth on them"
	@echo "make clean  remove what the other commands made, except the environment .venv"

$(VENV)/pip.stamp:
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 was found; name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "==> Creating the environment $(VENV) with $(PYTHON) (under a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(call install,--upgrade "pip>=25.1")
	@touch $@

$(VENV)/package.stamp: $(VENV)/pip.stamp $(INPUTS)
	@echo "==> Installing snrmix and its dependencies into $(VENV) (a few minutes the first time)"
	@$(call install,-c constraints.txt -e .)
	@touch $@

$(VENV)/%.stamp: $(VENV)/package.stamp
	@echo "==> Installing what '$*' needs (under a minute)"
	@$(call install,-c constraints.txt -e . --group $*)
	@touch $@

demo: $(VENV)/package.stamp
	@echo "==> Imputing a section (about a minute); results go to demo/"
	@$(BIN)/snrmix demo --out demo

lint: $(VENV)/test.stamp
	@echo "==> Checking the style with ruff, and types with mypy (seconds)"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m mypy

test: lint $(VENV)/workflows.stamp
	@echo "==> Running the tests, a file at a time on each of up to four processors (a quarter of an hour on two)"
	@OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest --durations=15 -n logical --maxprocesses 4 --dist loadfile

docs: $(VENV)/doc.stamp
	@echo "==> Building the documentation (about a minute)"
	@PYTHONWARNINGS=ignore::DeprecationWarning $(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

bench: $(VENV)/package.stamp
	@echo "==> Measuring on real sections (a long while; each result is shown as it arrives)"
	@$(BIN)/python benchmarks/real_sections.py

ablation: $(VENV)/package.stamp
	@echo "==> Changing one thing at a time on real sections (hours; a table by section is kept as it goes)"
	@$(BIN)/python benchmarks/ablation.py
	@$(BIN)/python benchmarks/finetuning.py

clean:
	@echo "==> Removing results, built pages and caches; 'rm -r $(VENV)' removes the environment too"
	@rm -rf demo dist docs/_build docs/generated docs/tutorials .mypy_cache .pytest_cache .ruff_cache
	@find src tests benchmarks docs tutorials -name __pycache__ -prune -exec rm -rf {} +
