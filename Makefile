# `make demo` and `make test` set everything up on a fresh machine: they make .venv, install, and do their job.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/installed

.PHONY: demo demo-mri test lint bench docs clean

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)       ## train, encode and probe scikit-learn's bundled digits; no network, about a minute
	$(BIN)/toolkit run digits --out runs/digits --overwrite

MRI ?= ../shared/data/brain_t1
BRAINS = $(BIN)/toolkit run ds002748 --data $(MRI)/ds002748_2mm --labels $(MRI)/ds002748_participants.tsv

demo-mri: $(STAMP)   ## the same for brain volumes in the folder MRI: unseen people rebuilt, another cohort, error maps
	$(BRAINS) --set split.unlabelled=0.75 --set split.labelled=unlabelled --set probe.labels=16 --out runs/brains --overwrite
	$(BIN)/toolkit reconstruct runs/brains --overwrite
	$(BIN)/toolkit reconstruct runs/brains $(MRI)/ixi/*.nii.gz --out runs/brains-ixi --overwrite
	$(BIN)/toolkit anomaly runs/brains --overwrite

test: $(STAMP)       ## the whole test suite with coverage, a file at a time on each core
	$(BIN)/coverage erase
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --cov --cov-report=term --cov-fail-under=90

lint: $(STAMP)       ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks

bench: $(STAMP)      ## speed as ratios against peers and limits
	$(BIN)/python benchmarks/run.py

docs: $(STAMP)       ## regenerate the pages that quote the program, such as docs/cli.md
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis
