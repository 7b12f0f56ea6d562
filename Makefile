# make demo | make test | make check: each installs what it needs into .venv
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

.PHONY: demo test check bench lock clean

demo: .venv/demo
	$(BIN)/felga demo --out runs/demo

test: .venv/test
	$(BIN)/python -m pytest

check: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The numbers of the README, on COCO's official layout: make bench COCO=../shared/coco-mini
COCO ?= ../shared/coco-mini
bench: .venv/test
	$(BIN)/felga bench coco --root $(COCO) --out bench/results/coco-mini-conse.json --set validation=0.1 \
		--tables bench/results/coco-mini-conse.md --figures runs/figures --work runs/bench
	$(BIN)/felga bench coco --root $(COCO) --methods frozen,felga --work runs/bench \
		--out bench/results/coco-mini-conse-all-pairs.json
	$(BIN)/python bench/indexing.py --corpus $(COCO)/train2017
	$(BIN)/felga bench proposals --root $(COCO) --split train2017 --every 8 --out bench/results/proposals.json
	$(BIN)/python bench/pooling.py --root $(COCO) --every 8
	$(BIN)/python bench/evaluator.py
	$(BIN)/python bench/readme.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[demo]'
	touch $@

.venv/test: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[test]'
	touch $@

# After a change of dependencies, in a fresh .venv: the versions that were tested together
lock: .venv/test
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt

clean:
	rm -rf .venv runs build *.egg-info
