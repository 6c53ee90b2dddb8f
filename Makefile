# make demo   the whole road on real driving images     make test       the test suite
# make lint   ruff and mypy                             make gpu-check  the tests that need an NVIDIA GPU
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test lint gpu-check clean

demo: $(INSTALLED)
	$(BIN)/pspnet demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -q

gpu-check: $(INSTALLED)
	$(BIN)/python -m pytest -q -m gpu

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -e ".[all]"
	@touch $@

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache
