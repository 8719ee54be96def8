# make demo    the whole road on the sample corpus, with figures
# make test    the tests
# make check   lint, types, import rules, tables against their records
# make optimum an environment for kdserve export --exporter optimum, and its test
# TORCH=…      what pip installs as torch; for a CPU build name its index: TORCH="torch --index-url …"

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN = $(VENV)/bin
DEV = "pytest>=8.4" "hypothesis>=6.130" "ruff>=0.14,<0.18" "mypy>=1.18,<3" "import-linter>=2.5,<3" "psutil>=6"

.PHONY: demo test check optimum clean

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
	$(BIN)/pip install --quiet -e ".[cpu,search,cli,distill,export,teacher]" $(DEV)
	touch $@

# optimum-onnx holds transformers below 5: an environment of its own.
optimum: $(VENV)/ready $(VENV)-optimum/ready
	KDSERVE_OPTIMUM_PYTHON=$(CURDIR)/$(VENV)-optimum/bin/python $(BIN)/python -m pytest tests/export/test_optimum.py

$(VENV)-optimum/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)-optimum
	$(VENV)-optimum/bin/pip install --quiet --upgrade pip
	$(VENV)-optimum/bin/pip install --quiet $(TORCH)
	$(VENV)-optimum/bin/pip install --quiet ".[optimum]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-optimum out
