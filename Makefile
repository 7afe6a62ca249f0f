# Two commands matter: `make reproduce` and `make test`.  Both set up .venv first; see `make help`.
# Variables: PYTHON (3.11 or newer), PROFILE, RUN, JOBS, PORT, CONSTRAINTS (empty: newest versions), and
# TORCH_INDEX (the index of CPU builds that PyTorch's installation page names: gigabytes smaller, no CUDA).

PYTHON ?= python3
PROFILE ?= laptop
RUN ?= runs/$(PROFILE)
CONSTRAINTS ?= constraints.txt
TORCH_INDEX ?=
PYTEST_ARGS ?= -n auto --dist loadfile --no-loadscope-reorder
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Small models gain nothing from several threads; arms run side by side instead.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
PORT ?= 8000
STUDY ?= text_share
.PHONY: help setup reproduce test rerun smoke engine fourbits study figures book serve pdf check bench audit clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv and install the package, the book and the test tools

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name it: make PYTHON=python3.12"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		$(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[book,dev]'
	@touch $@

reproduce: $(READY)  ## run the profile through papermill and build the book; say where both are
	$(BIN)/textreg run --profile $(PROFILE) --run $(RUN) $(if $(JOBS),--jobs $(JOBS))
	@book=$$($(BIN)/python -m textreg.book.build --run $(RUN)) && printf 'run:  %s\nbook: %s\n' "$(RUN)" "$$book"

test: $(READY)  ## run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

rerun: $(READY)  ## train three arms of the shipped results again and compare (ten minutes or more)
	$(BIN)/python -m pytest -m rerun -n 0 tests/runs/test_rerun.py

smoke: $(READY)  ## the whole chain at toy size, in about two minutes
	$(BIN)/textreg run --profile smoke --run runs/smoke $(if $(JOBS),--jobs $(JOBS))

engine: $(READY)  ## install Snakemake, which makes studies, beside the pinned packages
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[study]'

fourbits: $(READY)  ## test weights in 4 bits, with bitsandbytes beside the environment (peft loads it where it lies)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/fourbits \
		$(if $(CONSTRAINTS),-c $(CONSTRAINTS)) bitsandbytes
	PYTHONPATH=$(VENV)/fourbits $(BIN)/python -m pytest -n auto -m '' tests/vlm/test_four_bits.py

study: engine  ## bring the table of a study up to date (STUDY), with Snakemake
	$(BIN)/textreg study $(STUDY) $(if $(JOBS),--jobs $(JOBS))

figures: $(READY)  ## redraw every figure from the shipped results; nothing is trained
	@mkdir -p runs
	$(BIN)/papermill notebooks/06_figures.ipynb runs/figures.ipynb -k python3 --no-progress-bar \
		-p run runs/figures -p results results/$(PROFILE)
	@echo "figures: runs/figures/figures"

book: $(READY)  ## build the book, in which no link may be broken, from the latest run, or from the notebooks' sources
	@book=$$($(BIN)/python -m textreg.book.build $(if $(wildcard $(RUN)/notebooks),--run $(RUN))) && echo "book: $$book"

serve: book  ## build the book and serve it on this machine (PORT)
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

pdf: book  ## print the paper-like pages of the book (needs Chromium and the extra 'browser')
	$(BIN)/python -m textreg.book.browser _build/html --pdf _build/textreg.pdf

check: $(READY)  ## lint, layers, types, stale results
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	$(BIN)/python -m textreg.runs.shipping check results

bench: $(READY)  ## measure beside other tools, as far as they are installed (extra 'bench'); ONLY=tune for one group
	$(BIN)/python bench/compare.py $(if $(ONLY),--only $(ONLY))

audit: $(READY)  ## ask for known weaknesses of every pinned version (needs the network)
	$(BIN)/pip-audit --strict --no-deps --disable-pip -r constraints.txt

clean:  ## remove what was built; runs and results stay
	rm -rf _build book/_executed .pytest_cache .ruff_cache
