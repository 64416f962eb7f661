# make demo   trains and samples on real digits, figures in out/; installs what that needs
# make test   lint, types, docs, tests; installs the tools too
# Both make .venv when it is missing and install into it; unchanged requirements are not
# installed again, so the second run needs no network. PYTHON=... picks the interpreter.

PYTHON ?= python3
PY := .venv/bin/python
# The scripts in .venv/bin hold an absolute path, which may have a space: always python -m.

.PHONY: demo test install install-demo lint types docs docs-en docs-zh chinese pytest mutants proof format clean

demo: install-demo
	$(PY) -m sdescore demo $(ARGS)

# Types and pages take a core each; then the tests, some of which search in the built pages.
# The tests run the gallery's scripts, so the pages are built without their pictures.
test: lint
	$(MAKE) -j2 --no-print-directory types docs-en GALLERY="-D plot_gallery=0"
	$(MAKE) --no-print-directory pytest

# $(call installed,EXTRA,STAMPS): sdescore with an extra, unless one of the stamps says that it is
# there. A stamp holds the checksum of what was installed, and is written last.
define installed
@wanted="$$(cat pyproject.toml constraints.txt | cksum)"; \
if ! cat $(2) 2>/dev/null | grep -qxF "$$wanted"; then \
	set -e; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "sdescore needs Python 3.10 or newer: make PYTHON=python3.x")'; \
	$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv; \
	$(PY) -m pip install -c constraints.txt -e ".[$(1)]"; \
	echo "$$wanted" > $(firstword $(2)); \
fi
endef

install:
	$(call installed,dev,.venv/installed)

# The developers' extra holds the demo's.
install-demo:
	$(call installed,demo,.venv/installed-demo .venv/installed)

lint: install
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: install
	$(PY) -m mypy --strict sdescore

# -E: a warning is reported again until it is gone, whatever the last build has cached.
BUILD = $(PY) -m sphinx -q -E -W --keep-going -n $(GALLERY) -b html
docs: docs-en docs-zh

docs-en: install
	$(BUILD) docs docs/_build/html

# The tests look at docs/locale without this build.
docs-zh: install
	$(BUILD) -D language=zh_CN -d docs/_build/zh_CN docs docs/_build/html/zh_CN

# Renews docs/locale after a change of the English pages: see CONTRIBUTING.md.
chinese: install
	$(PY) docs/chinese.py

# One thread per worker: the tensors are small.
pytest: install
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "slow or not slow" $(ARGS)

# Breaks the formulas one at a time and looks whether a test fails; see benchmarks/mutants.py.
mutants: install
	$(PY) benchmarks/mutants.py $(ARGS)

# Kills, damage, malice, memory, other defaults, odd configurations; an hour of one core.
proof: install
	$(PY) benchmarks/proof.py --save $(ARGS)

format: install
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis docs/_build docs/reference docs/internals docs/examples dist
