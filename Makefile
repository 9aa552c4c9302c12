# l2ljax: `make run` trains, evaluates and draws; `make test` is the whole suite. Both install what they need.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: run test lint crosscheck gpu-bench install clean
.DELETE_ON_ERROR:

run: install
	$(BIN)/python experiments/demo.py

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# The attacks beside the official AutoAttack in torch; not part of `make test`, which skips it.
crosscheck: install
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[test,crosscheck]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/crosscheck

# Everything that is measured on an accelerator, in the Python that is active: `make gpu-bench OUT=folder`.
OUT ?= results/gpu
gpu-bench:
	$(PYTHON) benchmarks/gpu.py --out=$(OUT)

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "l2ljax needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[test]"
	@touch $(STAMP)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .cache
