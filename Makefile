# Each target makes .venv and installs what it needs, once: the stamps say what is there.
PYTHON ?= python3
BIN := .venv/bin
TORCH ?= 2.13.0+cpu
EXAMPLES ?= seeds/paragraphs.jsonl
TAXONOMY ?= seeds/taxonomy.toml
KERNEL := $(wildcard models/kernel/*)

.PHONY: help serve train test check bench clean
.DEFAULT_GOAL := help

help:  ## Say what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

.venv/train: pyproject.toml $(KERNEL)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[train]'
	touch $@

# torch by its CPU build's own name, so that no resolver brings in the builds for GPUs, many times the size.
.venv/dev: pyproject.toml $(KERNEL)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==$(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ .venv/train

# Fitted again, made active and brought into the store whenever the labels or the taxonomy change, or others are named;
# not when the environment does, since a corrected model may have taken over by then.
SERVED := $(or $(STANCERY_HOME),var)/served
ifneq ($(shell cat $(SERVED) 2>/dev/null),$(EXAMPLES) $(TAXONOMY))
.PHONY: $(SERVED)
endif
$(SERVED): $(EXAMPLES) $(TAXONOMY) | .venv/train
	$(BIN)/stancery train $(EXAMPLES) --taxonomy $(TAXONOMY)
	$(BIN)/stancery models activate newest
	$(BIN)/stancery labels import $(EXAMPLES)
	echo '$(EXAMPLES) $(TAXONOMY)' > $@

serve: $(SERVED)  ## Fit the seeds if need be, and serve; STANCERY_PORT and the like set how
	exec $(BIN)/stancery serve

train: .venv/train  ## Fit EXAMPLES with TAXONOMY (the seeds by default) into var/bundles
	$(BIN)/stancery train $(EXAMPLES) --taxonomy $(TAXONOMY)

test: .venv/dev  ## Run the checks and every test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/dev  ## Lint, types, and the labels
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/stancery labels check $(EXAMPLES) --taxonomy $(TAXONOMY)

bench: .venv/dev  ## Measure start and memory; accuracy is measured by `python -m benchmarks.accuracy DIR`
	$(BIN)/python -m benchmarks.resources

clean:  ## Remove the environment and caches; bundles in var stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
