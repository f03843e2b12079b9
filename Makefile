# `make demo` sets everything up and does the main job on the samples; `make test` runs the tests.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN = $(VENV)/bin
# What an import compiles is kept, or each of hundreds of processes would compile it again.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test lint bench soak clean

demo: $(VENV)/ready
	scripts/with_display $(BIN)/python scripts/demo.py

test: lint
	OMP_NUM_THREADS=1 scripts/with_virtual_display $(BIN)/python -m pytest -n 3 --dist loadfile --durations 30

lint: $(VENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Speed and memory beside peers: one table, and docs/performance.md with its plot.
bench: $(VENV)/ready
	scripts/with_virtual_display $(BIN)/python -m benchmarks

# Ten thousand damaged files, and the tests of robustness with thousands of cases: what became of
# them, the slowest, and the memory that they took.
soak: $(VENV)/ready
	OMP_NUM_THREADS=1 scripts/with_virtual_display $(BIN)/python tests/robustness/soak.py

# torch goes first: the other requirements would take the newest build with all of CUDA. Of the
# thousands of files only those that are imported get compiled, when they are.
$(VENV)/ready: pyproject.toml scripts/system_packages
	scripts/system_packages
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile "$(TORCH)"
	$(BIN)/python -m pip install --quiet --no-compile --editable . --group dev
	touch $@

clean:
	rm -rf $(VENV) demo build dist
