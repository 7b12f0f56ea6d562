# make demo | make test | make check | make bench | make weights | make hero: each installs what it needs into .venv
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

.PHONY: demo test check bench weights hero lock clean

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
bench: .venv/test runs/locust/bin/locust
	$(BIN)/felga bench coco --root $(COCO) --methods entire,frozen,random,felga,felga+owner --work runs/bench \
		--out bench/results/coco-mini-learned.json --tables bench/results/coco-mini-learned.md --figures runs/figures
	$(BIN)/felga bench coco --root $(COCO) --regions graphseg+edgeboxes --no-quality --work runs/bench \
		--out bench/results/coco-mini-unsupervised.json --tables bench/results/coco-mini-unsupervised.md
	$(BIN)/felga bench coco --root $(COCO) --regions graphseg+edgeboxes --no-quality --no-whole --methods frozen,felga \
		--recipe paper --set hidden=512 --work runs/bench \
		--out bench/results/coco-mini-paper.json --tables bench/results/coco-mini-paper.md
	$(BIN)/felga bench coco --root $(COCO) --regions graphseg+edgeboxes --no-quality --no-whole --methods frozen,felga \
		--recipe paper+ --set hidden=512 --work runs/bench \
		--out bench/results/coco-mini-paper-plus.json --tables bench/results/coco-mini-paper-plus.md
	$(BIN)/python bench/indexing.py --corpus $(COCO)/train2017
	$(BIN)/felga bench proposals --root $(COCO) --regions learned,graphseg+edgeboxes,selective-search,grid \
		--out bench/results/proposals.json
	$(BIN)/python bench/unseen_classes.py --root $(COCO)
	$(BIN)/python bench/region_trunks.py --root $(COCO)
	$(BIN)/python bench/adapt.py --root $(COCO)
	$(BIN)/python bench/captions.py --root $(COCO)
	$(BIN)/python bench/alignment.py --root $(COCO) --captioner runs/captions/seed-0.safetensors
	$(BIN)/python bench/quality_weight.py --root $(COCO)
	$(BIN)/python bench/assignment_score.py --root $(COCO)
	$(BIN)/python bench/confidence.py --root $(COCO)
	$(BIN)/python bench/confidences.py
	$(BIN)/python bench/composition.py --root $(COCO)
	$(BIN)/python bench/concepts.py --root $(COCO)
	$(BIN)/python bench/audit.py --root $(COCO)
	$(BIN)/python bench/breakdown.py --root $(COCO)
	$(BIN)/python bench/localisation.py --root $(COCO)
	$(BIN)/python bench/pooling.py --root $(COCO) --every 6
	$(BIN)/python bench/answers.py --root $(COCO)
	$(BIN)/python bench/serving.py --corpus $(COCO)/val2017 --locust runs/locust/bin/locust
	$(BIN)/python bench/duplicates.py --root $(COCO)
	$(BIN)/python bench/evaluator.py
	$(PYTHON) -m venv runs/lancedb && runs/lancedb/bin/pip install --quiet lancedb numpy pyarrow
	$(BIN)/python bench/speed.py --lancedb runs/lancedb/bin/python
	$(BIN)/python bench/millions.py
	$(BIN)/python bench/scaling.py
	$(BIN)/python bench/flat_memory.py --corpus $(COCO)/train2017
	$(BIN)/python bench/owners_memory.py
	$(BIN)/python bench/storage.py --root $(COCO)
	$(BIN)/python bench/environment.py
	$(BIN)/python bench/readme.py

# Train what ships with felga: the region head on boxes of train2017, the FENet on its captions
weights: .venv/test
	$(BIN)/felga train-regions $(COCO)/annotations/instances_train2017.json $(COCO)/train2017 \
		--supervision "boxes of coco-mini train2017, no class names" --out felga/proposals/weights/regions.safetensors
	$(BIN)/felga index --coco $(COCO)/annotations/captions_train2017.json --images $(COCO)/train2017 \
		--fenet none --out runs/train2017
	$(BIN)/python bench/packaged_fenet.py runs/train2017

# The picture at the top of the README, from the demo corpus
hero: .venv/demo
	$(BIN)/python bench/hero.py

# The load on the server, in an environment of its own
runs/locust/bin/locust:
	$(PYTHON) -m venv runs/locust
	runs/locust/bin/python -m pip install --disable-pip-version-check --quiet locust

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[demo]'
	touch $@

.venv/test: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[test]'
	$(PIP) --no-deps milvus-lite  # which would install faiss-cpu over faiss-gpu
	touch $@

# After dependencies change, in a fresh .venv: record the versions that were tested together
lock: .venv/test
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt

clean:
	rm -rf .venv runs build *.egg-info
