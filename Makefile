# make demo   six strategies on handwritten digits, from a fresh machine to a report
# make bench  what queries cost on this machine, into benchmarks/results
# make test   lint, types and tests, as CI runs them
# make same   the tiny study of a base commit and of this tree, compared; BASE=<commit> names another base
# make chaos  a study under fifty kill -9, compared with an undisturbed one
# make lock   requirements.lock anew from pyproject.toml
PYTHON ?= python3
BIN := .venv/bin
STUDY := results/demo
export PATH := $(CURDIR)/$(BIN):$(PATH)
unexport PYTHONDONTWRITEBYTECODE # hundreds of short jobs import the same modules

.PHONY: demo bench test lint types quick same chaos lock clean

demo: .venv/installed
	snakemake --configfile demo.yaml
	@$(MAKE) --no-print-directory $(STUDY)/report.html
	@echo
	@echo "report   $(STUDY)/report.html"
	@echo "table    $(STUDY)/tables/accuracy.html"
	@echo "figure   $(STUDY)/figures/learning_curves_small.png"

$(STUDY)/report.html: $(STUDY)/measurements.csv $(STUDY)/timings.csv $(wildcard $(STUDY)/figures/*.svg report/*.rst)
	snakemake --configfile demo.yaml --report $@

bench: .venv/installed
	-uv pip install --quiet --python $(BIN)/python --group bench
	python -m benchmarks

test: lint types
	pytest
	python -m tests.same

quick: .venv/installed
	pytest -m "not slow"

same: .venv/installed
	python -m tests.same

chaos: .venv/installed
	python -m tests.chaos

lint: .venv/installed
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	snakemake --configfile demo.yaml --lint

types: .venv/installed
	mypy

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12"; exit 1; }
	@echo "Installing into .venv what requirements.lock names; with CUDA's libraries that is 6 GB and some minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

lock: .venv/installed
	uv pip compile --universal --generate-hashes --no-emit-index-url --no-header --group dev pyproject.toml \
	  --output-file requirements.lock --quiet

clean:
	rm -rf .venv .snakemake .mypy_cache .pytest_cache .ruff_cache results logs
