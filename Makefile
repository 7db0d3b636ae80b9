# `make app` starts Lowshot, `make test` runs all checks, `make check` the quick ones, `make hooks` runs these before every
# commit, `make setup` only builds the environment, `make screenshots` takes the README's pictures again, `make load
# MINUTES=10` lets 20 visitors use the app at once, `make soak MINUTES=30` kills its processes at random moments, `make
# bench` measures it against what a user would pick instead.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BENCH := .venv-bench
AXE := tests/browser/node_modules/axe-core/axe.min.js
FAST := tests/architecture $(addprefix tests/unit/,test_registry.py test_files.py analysis/test_comparison.py \
	data/test_augmentation.py data/test_download.py data/test_images.py data/test_splits.py \
	metrics/test_bootstrap.py metrics/test_measures.py)

.PHONY: app setup test check fast hooks lint results screenshots load soak bench
.DELETE_ON_ERROR:

app: setup
	$(BIN)/streamlit run streamlit_app.py --server.address 127.0.0.1 --server.port 8501

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt requirements-no-deps.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Lowshot needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -r requirements-no-deps.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements-dev-no-deps.txt requirements-volumes.txt requirements-cluster.txt $(VENV)/.installed
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -r requirements-dev-no-deps.txt
	touch $@

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

results: setup
	for document in README.md $(wildcard docs/*.md); do \
		$(BIN)/python -m trainer results --write $$document || exit 1; \
	done

screenshots: $(VENV)/.installed-dev
	$(BIN)/python -m tests.browser.server docs

load: MINUTES ?= 10
load: $(VENV)/.installed-dev
	$(BIN)/python -m tests.load.load --minutes $(MINUTES) && failed=0 || failed=1; \
		$(BIN)/python -m benchmarks --write docs/performance.md && exit $$failed
	$(BIN)/python -m tests.load.load --alone

# one thread each: processes are forked, and their results compared
soak: MINUTES ?= 20
soak: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.load.soak --minutes $(MINUTES)

# the peers' packages, on top of those of the program; requirements.txt keeps them from bringing another PyTorch
$(BENCH)/.installed: requirements-bench.txt $(VENV)/.installed-dev
	test -x $(BENCH)/bin/python || $(BIN)/python -m venv $(BENCH)
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(BENCH)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/lowshot.pth"
	$(BENCH)/bin/python -m pip install --disable-pip-version-check -r requirements-bench.txt
	touch $@

bench: $(BENCH)/.installed
	$(BENCH)/bin/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(AGAIN),--again)
	$(BENCH)/bin/python -m benchmarks --write docs/performance.md

# checks the accessibility of pages; without npm the tests that need it are skipped, and fail where data is required
$(AXE): tests/browser/package.json
	npm install --prefix tests/browser --no-package-lock --no-audit --no-fund --loglevel error \
		|| echo "axe-core could not be installed."
	test ! -f $@ || touch $@

test: lint $(AXE)
	$(BIN)/python -m pytest

check: lint fast

fast: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 0 -m "not data" $(FAST)

hooks: $(VENV)/.installed-dev
	$(BIN)/pre-commit install
