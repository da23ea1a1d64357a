PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test docs slow parity results bench gpu-check gpu-check-cpu lint types check clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1	/'

demo: .venv/installed ## install, train three position encodings with three seeds each, compare them
	$(BIN)/gptlab sweep experiments/demo/demo.yaml wandb.mode=offline
	$(BIN)/gptlab compare runs/demo --png runs/demo/curves.png

test: .venv/installed-dev ## install what the tests need and run them
	$(BIN)/pytest -n 2

docs: .venv/installed-dev ## build the documentation as a site, in site/; fails on a dead link
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

slow: .venv/installed-dev ## the tests that take minutes
	$(BIN)/pytest -n 2 -m slow

parity: .venv/installed-dev ## compare every family of models with its class in transformers
	$(BIN)/python tests/parity.py

results: .venv/installed ## make every RESULTS.md and picture of experiments/ from the numbers kept there
	$(BIN)/python experiments/results.py

bench: .venv/installed-dev ## time steps and a sweep, beside a checkout (NANOGPT=PATH), and write benchmarks/README.md
	$(BIN)/python benchmarks/bench.py $(NANOGPT)

gpu-check: .venv/installed-dev ## check and time the GPU path in 8 minutes, optionally with NANOGPT=PATH and TEXT=PATH
	NANOGPT=$(NANOGPT) TEXT=$(TEXT) $(BIN)/python benchmarks/gpu/check.py

gpu-check-cpu: .venv/installed-dev ## try the GPU check itself at tiny settings on a CPU
	GPU_CHECK_DEVICE=cpu GPU_CHECK_TINY=1 NANOGPT=$(NANOGPT) TEXT=$(TEXT) $(BIN)/python benchmarks/gpu/check.py

lint: .venv/installed-dev ## ruff, codespell, and the contract that imports go one way
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports

types: .venv/installed-dev ## mypy
	$(BIN)/mypy

check: lint types test ## all that CI runs

clean: ## remove the environment and what tools left; runs stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs,hf,slurm,dashboard,trackio]'
	@touch $@
