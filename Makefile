# Everything runs from .venv, which any target below creates, and updates when pyproject.toml changes.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Idle workers steal tests from the ends of other queues, so tests of one file mostly share fixtures.
SIDE_BY_SIDE := -n auto --dist worksteal

.PHONY: setup demo test test-fast coverage lint format docs clean

setup: $(READY)

$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit("alitok needs Python 3.11 or newer; run make with PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv && $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -e '.[demo,cpu,eval,perceptual,tensorboard,serve,ray,dev,docs]' \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo,cpu,eval,perceptual,tensorboard,serve,ray,dev,docs]'
	@touch $@

# FRESH=1 starts over; ARGS passes further options, such as ARGS="--data photos --out runs/photos".
demo: $(READY)
	$(BIN)/alitok demo $(if $(FRESH),--fresh) $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-fast: $(READY)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow"

# Slower than `make test`.
coverage: $(READY)
	$(BIN)/coverage erase
	-$(BIN)/coverage run -m pytest $(SIDE_BY_SIDE)
	$(BIN)/coverage combine --quiet
	$(BIN)/python tests/coverage_table.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Open site/index.html.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --clean

clean:
	rm -rf .venv site build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
