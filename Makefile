# make demo and make test do all the set-up they need; everything that they make is in .venv, build and .lab.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Directories too: they change when a file goes.
SOURCES := $(shell find ocipy $(wildcard spec) -name __pycache__ -prune -o -type d -print \
	-o -name '*.py' -print -o -name '*.[ch]' -print -o -name '*.cdef' -print -o -name '*.json' -print) $(wildcard docs/man/*) setup.py pyproject.toml README.md LICENSE
GENERATED := ocipy/_commit.py ocipy/config/_compiled.py ocipy/_native/ops.h
export PYTHON
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: all conformance conformance-page deps build man demo test test-engines check lint bench cross validation vm-venv vm-test vm-test-v1 vm-shell dist clean
.DELETE_ON_ERROR:

all: build

# ---- set-up: each stamp is younger than what it was made from -----------------------------------------------------
deps: $(VENV)/.packages $(VENV)/.debian-test

$(VENV)/.debian: .ci/deps
	@.ci/deps build
	@mkdir -p $(VENV) && touch $@

$(VENV)/.debian-test: .ci/deps
	@.ci/deps test
	@mkdir -p $(VENV) && touch $@

$(VENV)/.packages: pyproject.toml $(VENV)/.debian
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); q = p["project"]; \
	print("\n".join(p["build-system"]["requires"] + q["dependencies"] + q["optional-dependencies"]["dev"]))' >$(VENV)/.wanted
	$(BIN)/pip install --quiet --requirement $(VENV)/.wanted
	@touch $@

$(VENV)/.packages-engines: pyproject.toml $(VENV)/.packages
	@$(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); \
	print("\n".join(p["project"]["optional-dependencies"]["engines"]))' >$(VENV)/.wanted-engines
	$(BIN)/pip install --quiet --requirement $(VENV)/.wanted-engines
	@touch $@

# ---- build: what `pip install .` gives anyone, compiled objects kept in build/ -------------------------------------
build: $(VENV)/.built

$(VENV)/.built: $(VENV)/.packages $(filter-out $(GENERATED),$(SOURCES))
	@mkdir -p build
	OCIPY_WERROR=1 flock build/.lock $(BIN)/pip install --quiet --no-deps --no-build-isolation --force-reinstall .
	@touch $@

# Manual pages alone, to look at: man -l build/man/ocipy.8. pip installs them too.
man:
	@$(PYTHON) -c 'from ocipy import __version__; from ocipy.cli.manual import generate; \
	print(*generate("docs/man", "build/man", __version__, "$(shell git log -1 --format=%cs 2>/dev/null || date +%F)"))'

# ---- looking at it ---------------------------------------------------------------------------------------------------
demo: build $(VENV)/.debian-test
	@OCIPY=$(abspath $(BIN)/ocipy) bash docs/demo.sh

lint: build
	$(BIN)/ruff check ocipy tests conformance setup.py
	$(BIN)/mypy

# What a reviewer runs, without root: static checks (the build compiles C with warnings as errors) and unit tests.
check: lint
	$(BIN)/pytest -q tests/unit -m "not root"

test: $(VENV)/.debian-test lint
	$(BIN)/pytest -q tests/unit tests/integration

# Real engines, started beside the machine's own: containerd (and its CRI), dockerd, Podman, Buildah. RUNTIME= names another runtime.
test-engines: build $(VENV)/.debian-test $(VENV)/.packages-engines
	@.ci/deps engines
	$(BIN)/pytest -q tests/engines

# docs/performance.md. QUICK=1: a minute, and no page.
bench: build $(VENV)/.debian-test
	@.ci/deps bench
	$(BIN)/pip install --quiet matplotlib
	$(BIN)/python tests/bench $(if $(QUICK),--quick --output -)

validation: build
	conformance/validation.sh run

# As root: the clauses of spec/clauses.toml with ocipy, and with runc and crun where they are; or with RUNTIME= alone.
conformance: build $(VENV)/.debian-test
	$(BIN)/python conformance/matrix.py $(if $(RUNTIME),--runtime $(RUNTIME))

# docs/conformance.md, from what conformance and the validation suite found last, of all three runtimes.
conformance-page: $(VENV)/.packages
	$(BIN)/python conformance/page.py --take

# A virtual machine with cgroup v2, systemd and AppArmor: tests/vm/README.md. What it runs is built here, for Debian's own Python.
GUEST_VENV := .lab/guest-venv
GUEST := tests/vm/guest.py --venv $(GUEST_VENV)
vm-venv:
	@PYTHON=/usr/bin/python3 .ci/deps build test vm
	@$(MAKE) --no-print-directory VENV=$(GUEST_VENV) PYTHON=/usr/bin/python3 build $(GUEST_VENV)/.packages-engines

vm-test: vm-venv
	$(GUEST_VENV)/bin/python $(GUEST) bash tests/vm/suite $(MODES)

# The same machine with cgroup v1, and v2 beside it.
vm-test-v1: vm-venv
	GUEST_APPEND=systemd.unified_cgroup_hierarchy=0 $(GUEST_VENV)/bin/python $(GUEST) bash tests/vm/suite v1

# make vm-shell COMMAND='systemctl status'
vm-shell: vm-venv
	$(GUEST_VENV)/bin/python $(GUEST) sh -c '$(subst ','\'',$(COMMAND))'

# The other architecture must compile without a warning: the static executables whole, the shim up to its objects.
CROSS := aarch64-linux-gnu-gcc
cross: $(VENV)/.packages
	@.ci/deps cross
	OCIPY_WERROR=1 CC=$(CROSS) $(BIN)/python setup.py --quiet build_native --output build/aarch64
	@mkdir -p build/aarch64/include
	@ln -sf $$(pkg-config --variable=includedir libseccomp)/seccomp*.h build/aarch64/include
	for source in $(wildcard ocipy/_native/shim*.c ocipy/_native/spawn.c ocipy/_native/check.c ocipy/_native/filter.c); do \
		$(CROSS) $$($(BIN)/python ocipy/_native/build.py) -Werror -Ibuild/aarch64/include -c -o build/aarch64/shim.o $$source || exit 1; \
	done

dist: $(VENV)/.packages
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean:
	rm -rf build dist .venv .lab .mypy_cache .ruff_cache .pytest_cache *.egg-info $(GENERATED) ocipy/_native/init ocipy/_native/*.so
	find ocipy tests -name __pycache__ -type d -prune -exec rm -rf {} +
