# Every target sets up .venv by itself and is safe to repeat.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Processes that test side by side, one on each core.
BESIDE := -n auto --maxprocesses 8 --dist worksteal

.PHONY: pretrain test slow check format clean

pretrain: $(VENV)/installed  ## the main job on the bundled sample, on two CPU cores
	$(BIN)/dnamamba pretrain data/samples/hg38_chr16_187k-397k.fa.gz \
		--preset 250k --length 1024 --batch 2 --tokens 1M --force -o runs/sample

test: $(VENV)/installed  ## the CPU tests
	$(BIN)/python -m pytest $(BESIDE) -m "not gpu and not slow"

slow: $(VENV)/installed  ## what the quick tests leave out
	$(BIN)/python -m pytest $(BESIDE) -m "slow and not gpu"

check: $(VENV)/installed  ## format, lint, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[dev]"
	touch $@
