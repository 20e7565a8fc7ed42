# make demo   trains the demo          make demo ARGS="seed=1 optimizer.lr=1e-3"
# make test   runs the checks, and the tests in two processes
# Both make an environment in .venv and install into it, once; pyproject.toml or constraints.txt newer: again.
#   PYTHON=python3.12   another interpreter       VENV=/some/folder   another place

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?=

.PHONY: demo test lint install clean

demo: install
	$(BIN)/python train.py $(ARGS)

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

lint: install
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "maskcap needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
