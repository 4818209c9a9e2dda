# make setup   everything into .venv (the second time: nothing to do)
# make demo    three clips from three prompts, as WAV with a spectrogram PNG each, in demo/
# make test    the linter and all tests, about ten minutes on two cores
# make kernels the native kernels, where this machine has a C++ compiler; demo and test do it too
# make clean   what these commands wrote, but for .venv; make distclean takes that too
#
# PYTHON=python3.12 chooses the interpreter of .venv; PIP_ARGS="..." goes to every pip install (docs/install.md).

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
WORKERS ?= 3
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt $(PIP_ARGS)

.PHONY: help setup kernels demo test clean distclean

help:
	@sed -n '/^# /s/^# //p' Makefile

setup: $(STAMP)

# torch goes first: whatever comes after it is then satisfied by the one that is there, be it a CPU or a CUDA build.
# The mark .installing outlives an interruption, after which pip would take half a package for a whole one: start anew.
$(STAMP): constraints.txt pyproject.toml
	@python="$(PYTHON)"; \
	for name in $$python $$( [ -n "$$python" ] || echo python3 python python3.13 python3.12 python3.11 python3.10 ); do \
	    if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then found=$$name; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	    echo "audiogen needs Python 3.10 or newer; $${python:-python3} is $$("$${python:-python3}" --version 2>/dev/null || echo not there)." \
	         "Install one, or name it: make setup PYTHON=/path/to/python3" >&2; exit 2; \
	fi; \
	if ! "$$found" -c 'import venv, ensurepip' 2>/dev/null; then \
	    echo "$$found has no venv module: install it (Debian, Ubuntu: apt install python3-venv) or name another" \
	         "interpreter: make setup PYTHON=/path/to/python3" >&2; exit 2; \
	fi; \
	version='import sys; print("%d.%d" % sys.version_info[:2])'; \
	if [ -n "$$python" ] && [ -x $(BIN)/python ] && [ "$$("$$found" -c "$$version")" != "$$($(BIN)/python -c "$$version")" ]; then \
	    echo "$(VENV) holds another Python than $$python: run make distclean first" >&2; exit 2; \
	fi; \
	if [ -e $(VENV)/.installing ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    "$$found" -m venv --clear $(VENV); \
	fi
	@touch $(VENV)/.installing
	@echo "Installing torch and the rest into $(VENV) (once; some minutes) ..."
	@$(PIP_INSTALL) torch setuptools
	@$(PIP_INSTALL) --no-build-isolation --editable '.[dev]'
	@rm $(VENV)/.installing
	@touch $@

# Without a compiler this says so and goes on: every operation has its plain PyTorch form.
kernels: $(STAMP)
	@$(BIN)/python -m audiogen.ops.build --if-possible

demo: kernels
	@$(BIN)/audiogen generate --prompts docs/demo_prompts.txt --seconds 8 --seed 1 --png --overwrite --out demo

test: kernels
	@$(BIN)/ruff check .
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

clean:
	@rm -rf demo build dist audiogen/ops/audiogen_*.so *.egg-info .pytest_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	@rm -rf $(VENV)
