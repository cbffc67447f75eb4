# Shortcuts for working on this project. `make first` trains a first net; `.ci/run` is what a change must pass.
PYTHON := .venv/bin/python
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export OMP_NUM_THREADS := 1

.PHONY: help setup first lint test test-fast docs
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## make .venv with the project and everything that working on it needs (7 GB)
	test -x $(PYTHON) || python3 -m venv .venv
	$(PYTHON) -m pip install --quiet uv
	.venv/bin/uv pip install --quiet --compile-bytecode --python $(PYTHON) -e '.[test,docs]'

first:  ## train a small VGG-A on the built-in data
	$(PYTHON) -m vgg_dist.train --arch A --batch-norm --head gap --image-size 32 --data synthetic:train=2000,val=500 \
	  --global-batch 32 --lr 0.003 --epochs 3 --name first

lint:  ## style, types and the direction of imports
	ruff check .
	ruff format --check .
	mypy
	lint-imports

test-fast:  ## the tests that take less than a second each and need no Ray
	$(PYTHON) -m pytest -m "not ray and not slow"

test:  ## all that a change must pass
	.ci/run

docs:  ## renew the option tables, build the documentation into build/docs
	$(PYTHON) docs/options.py
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
