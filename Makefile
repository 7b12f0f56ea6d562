# make demo | make test | make check | make bench | make hero: each installs what it needs into .venv
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

.PHONY: demo test check bench hero lock clean

demo: .venv/demo
	$(BIN)/felga demo --out runs/demo

test: .venv/test
	$(BIN)/python -m pytest

check: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Measure everything in docs/measured.md, on COCO in its official layout: make bench COCO=../shared/coco-mini
COCO ?= ../shared/coco-mini
bench: .venv/test
	$(BIN)/felga bench coco --root $(COCO) --out bench/results/coco-mini-conse.json --set validation=0.1 \
		--tables bench/results/coco-mini-conse.md --figures runs/figures --work runs/bench
	$(BIN)/felga bench coco --root $(COCO) --methods frozen,felga --work runs/bench \
		--out bench/results/coco-mini-conse-all-pairs.json
	$(BIN)/python bench/indexing.py --corpus $(COCO)/train2017
	$(BIN)/felga bench proposals --root $(COCO) --split train2017 --every 8 --out bench/results/proposals.json
	$(BIN)/python bench/pooling.py --root $(COCO) --every 8
	$(BIN)/python bench/answers.py --root $(COCO)
	$(BIN)/python bench/evaluator.py
	$(BIN)/python bench/environment.py
	$(BIN)/python bench/readme.py

# The picture at the top of the README, from the demo corpus
hero: .venv/demo
	$(BIN)/python bench/hero.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[demo]'
	touch $@

.venv/test: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[test]'
	touch $@

# After dependencies change, in a fresh .venv: record the versions that were tested together
lock: .venv/test
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt

clean:
	rm -rf .venv runs build *.egg-info
