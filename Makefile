# Everything runs from a virtual environment of its own; the first target that needs it makes it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo dev test check format bench lock clean

demo: $(VENV)/.engine  ## install, start an engine and a proxy, transcribe a recording
	PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

dev: $(VENV)/.dev  ## install everything that development needs

test: $(VENV)/.dev  ## all tests, warnings as errors
	$(BIN)/python -m pytest

check: $(VENV)/.dev  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev  ## added latency, throughput and memory; prints one report
	$(BIN)/python -m benchmarks.overhead

lock: $(VENV)/.dev  ## pin what the images install, with hashes
	$(PIP) install uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml \
		-o requirements.lock
	$(BIN)/uv pip compile -q --python-version 3.11 --generate-hashes --no-header --extra engine pyproject.toml \
		-o requirements-engine.lock

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.engine: pyproject.toml | $(VENV)/bin/python
	$(PIP) install -e '.[engine]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) install -e '.[engine,dev]'
	touch $@ $(VENV)/.engine
