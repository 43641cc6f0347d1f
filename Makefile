# make help lists the targets. PYTHON picks the interpreter of the environment, by default the first
# one that is there and that the lock has wheels for. TORCH_INDEX picks another build of torch than
# PyPI's.
PYTHONS := python3 python3.14 python3.13 python3.12 python3.11
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
PYTHON ?= $(firstword $(foreach name,$(PYTHONS),$(shell $(name) -c '$(FITS)' 2>&- && echo $(name))))
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check

# Bytecode is written where it is missing, whatever the shell says: without it torch's sources are
# compiled anew by every process.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo plots status test test-all lint types format bench notebooks wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv with the pinned requirements
	@$(BIN)/python -c 'import platform, torch; print("$(VENV): Python", platform.python_version(), "and torch", torch.__version__)'

$(READY): requirements.lock pyproject.toml
	@$(or $(PYTHON),false) -c '$(FITS)' || { echo "error: no Python 3.11 to 3.14: make setup PYTHON=..."; exit 1; }
	@echo "setting up $(VENV): up to 6 GB on Linux, where PyPI's torch brings its libraries for GPUs"
	$(PYTHON) -m venv --clear $(VENV)
ifneq ($(TORCH_INDEX),)
	$(PIP) --no-deps --index-url $(TORCH_INDEX) $$(grep '^torch==' requirements.lock)
endif
	$(PIP) -r requirements.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@# Writes the bytecode of what is used (pip would for all, in a minute) and numba's cache.
	$(BIN)/python -m benchmark.run fl.rounds=1 outputs=$(VENV)/first >/dev/null
	@touch $@

demo: $(READY)  ## run a grid on the embedded data and draw accuracy versus f
	$(BIN)/python -m benchmark.run +experiment=demo
	$(BIN)/python -m benchmark.plots

plots: $(READY)  ## draw what is stored: accuracy versus f, and the summary tables
	$(BIN)/python -m benchmark.plots

status: $(READY)  ## count done, failed, infeasible and missing cells
	$(BIN)/python -m benchmark.status

test: $(READY)  ## run the tests, the notebooks among them
	$(BIN)/python -m pytest -n auto --dist worksteal
	$(BIN)/python -m pytest --nbmake notebooks

test-all: $(READY)  ## run the slow tests too
	$(BIN)/python -m pytest -n auto --dist worksteal -m ""

lint: $(READY)  ## check style
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(READY)  ## check types
	$(BIN)/python -m basedpyright

format: $(READY)  ## mend style
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: $(READY)  ## measure speed, as ratios
	$(BIN)/python -m bench

notebooks: $(READY)  ## execute the notebooks
	$(BIN)/python -m pytest --nbmake notebooks

wheel: $(READY)  ## build a wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation -w dist .

clean:  ## remove the environment and caches; results in outputs/ stay
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
