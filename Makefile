# make help lists the targets. PYTHON picks the interpreter (3.11 or newer) of the environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Bytecode is written where it is missing, whatever the shell says: without it torch's sources are
# compiled anew by every process.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo plots status test test-all lint format bench notebooks wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv with the pinned requirements

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
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
