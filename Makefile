# make demo      a gene panel from real cells, with a report to look at
# make test      the test suite (make test-all adds the slow tests)
# make bench     the CPU benchmarks, under ten minutes on a quiet machine
# make lint      ruff, mypy and clang-format
# make sanitize  the CPU kernels' tests under address and undefined-behaviour sanitizers
# make inplace   build the extensions into python/kernomics for development

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet -c constraints.txt
SOURCES := pyproject.toml CMakeLists.txt $(shell find csrc python -type f -not -name '*.so' -not -path '*/__pycache__/*')
DEMO_RUN := runs/demo
WHEELS := build/wheels

# The dependencies install while the kernels compile.
MAKEFLAGS += --jobs=2

.PHONY: demo test test-all test-environment bench lint format inplace sanitize clean

demo: $(VENV)/.installed
	$(BIN)/kernomics demo --out $(DEMO_RUN) --overwrite

test: $(VENV)/.test
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow" tests

test-all: $(VENV)/.test
	$(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder tests

test-environment: $(VENV)/.test

bench: $(VENV)/.test
	$(BIN)/python -m bench.harness --record
	$(BIN)/python -m bench.table

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format -i

inplace: $(VENV)/.build-tools
	PATH=$(CURDIR)/$(BIN):$$PATH cmake -S . -B build/inplace -G Ninja -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
	  -Dpybind11_DIR=$$($(BIN)/pybind11-config --cmakedir)
	PATH=$(CURDIR)/$(BIN):$$PATH cmake --build build/inplace
	PATH=$(CURDIR)/$(BIN):$$PATH cmake --install build/inplace --prefix python

sanitize: $(VENV)/.test $(VENV)/.build-tools
	.ci/sanitize all

clean:
	rm -rf $(VENV) build runs dist

$(VENV)/.build-tools: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --no-compile --upgrade pip
	$(PIP) --no-compile scikit-build-core pybind11 cmake ninja
	touch $@

# pip would byte-compile every file of every package in turn, which takes longer than all the rest;
# Python compiles what it imports.
$(VENV)/.dependencies: $(VENV)/.build-tools pyproject.toml constraints.txt
	$(BIN)/python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
	  print(*p['dependencies'], *p['optional-dependencies']['report'], sep='\n')" > $(VENV)/requirements.txt
	$(PIP) --no-compile -r $(VENV)/requirements.txt
	touch $@

$(WHEELS)/.built: $(VENV)/.build-tools $(SOURCES)
	rm -rf $(WHEELS)
	$(BIN)/pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation -w $(WHEELS) .
	touch $@

$(VENV)/.installed: $(VENV)/.dependencies $(WHEELS)/.built
	$(PIP) --no-deps --force-reinstall $(WHEELS)/*.whl
	touch $@

$(VENV)/.test: $(VENV)/.installed
	$(PIP) --no-compile --group test
	touch $@

$(VENV)/.dev: $(VENV)/.test
	$(PIP) --no-compile --group dev
	touch $@
