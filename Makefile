# The project's commands. `make` alone lists them. `make demo` and `make test` install what they need first.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PYTEST_ARGS ?=
UPGRADE ?=
ENGINE ?= embedded
CODE := opslib tools tests $(wildcard benchmarks)

.DEFAULT_GOAL := help
.PHONY: help install lock lint format catalogues notebooks rights schema check test test-real test-compare demo down clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv from the lock

$(STAMP): requirements.lock pyproject.toml tools/install.py
	@$(PYTHON) tools/install.py

lock: $(STAMP) ## Pin what pyproject.toml asks for, with hashes; UPGRADE=--upgrade moves the pins to the newest
	$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes --no-header $(UPGRADE) -o requirements.lock
	$(BIN)/uv pip compile --quiet requirements-toolchains.in --universal --python-version 3.11 --generate-hashes --no-header --no-annotate $(UPGRADE) -o requirements-toolchains.lock

format: $(STAMP) ## Format the code
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

lint: $(STAMP) ## Check style, types and the direction of imports
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

catalogues: $(STAMP) ## Collect new texts for translation and build what is loaded
	$(BIN)/python tools/catalogues.py extract
	$(BIN)/python tools/catalogues.py compile
	$(BIN)/opslib environment schema --write

notebooks: $(STAMP) ## Write the Japanese notebooks from the English ones and the catalogues
	$(BIN)/python tools/notebooks.py build

rights: $(STAMP) ## Write the roles in deploy/rbac from what the chapters need
	$(BIN)/python tools/rights.py build

check: lint ## Everything but the tests
	$(BIN)/python tools/catalogues.py check
	$(BIN)/python tools/notebooks.py check
	$(BIN)/python tools/rights.py check
	$(BIN)/opslib environment check

test: check ## Check and test everything that needs no real servers; labs are embedded ones
	$(BIN)/pytest -m "not real and not compare" -n auto --dist loadgroup $(PYTEST_ARGS)
	@echo "Not run here: the tests on real servers (make test-real)."

test-real: $(STAMP) ## Test on the real servers; builds them first where they are missing
	$(BIN)/opslib lab build
	OPSLIB_REQUIRE_REAL=1 $(BIN)/pytest -m real -n 2 --dist loadgroup $(PYTEST_ARGS)

test-compare: $(STAMP) ## Hold the lab's controllers against the real ones, on a real API server too: ten minutes
	$(BIN)/opslib lab build
	OPSLIB_REQUIRE_REAL=1 $(BIN)/pytest -m compare $(PYTEST_ARGS)

demo: $(STAMP) ## A lab with an incident in it, and every chapter's report on it; ENGINE=real for real servers, built once
	@[ "$(ENGINE)" != real ] || $(BIN)/opslib lab build
	$(BIN)/opslib lab up --engine $(ENGINE)
	$(BIN)/opslib lab break incident --wait
	$(BIN)/opslib run --all --env lab --html --fail-on never
	@echo
	@echo "Reports:         $(CURDIR)/outputs/index.html"
	@echo "Look around:     $(BIN)/opslib lab status"
	@echo "Stop the lab:    make down"

down: $(STAMP) ## Stop the lab
	$(BIN)/opslib lab down

clean: ## Remove what was installed and made here; outputs/ and built servers stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
