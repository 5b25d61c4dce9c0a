# `make demo` and `make test` need nothing but Python 3.11+ and make; the first run sets up .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Torch is optional. `make torch` installs this build and what is tested with it; CI does, so that no test is skipped.
TORCH  ?= torch==2.13.0 onnxscript transformers
# A sum ends in other bits on another processor: the tests run as on this one, and as on a second kind.
CORETYPE ?= Haswell

# What is tested with the lowest versions that pyproject.toml allows.
LOWEST := .venv-lowest
CORE   := tests/cache tests/data tests/images tests/models tests/storage tests/test_budget.py tests/cli/test_cache.py \
          tests/cli/test_main.py tests/cli/test_failures.py tests/cli/test_refresh.py tests/cli/test_old_files.py \
          tests/offload/codecs tests/offload/test_old_files.py

.PHONY: demo test test-coretype lowest lint types check bench format torch clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $@

torch: $(VENV)/installed
	$(BIN)/python -m pip install --quiet $(TORCH)

demo: $(VENV)/installed
	$(BIN)/python examples/digits_demo.py --out demo-output

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-coretype: $(VENV)/installed
	OPENBLAS_CORETYPE=$(CORETYPE) $(BIN)/python -m pytest -n 2 --dist loadgroup

lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet -c tests/constraints-lowest.txt -e ".[serve]" \
		pytest pytest-xdist pytest-benchmark hypothesis pandas onnx
	$(LOWEST)/bin/python -m pytest -n 2 --dist loadgroup $(CORE)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

check: lint types test test-coretype

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/installed
	$(BIN)/python benchmarks/overhead.py

clean:
	rm -rf $(VENV) $(LOWEST) demo-output .mypy_cache .ruff_cache .pytest_cache
