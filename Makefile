# steno: everything a newcomer or a contributor runs. `make` alone tells what there is.
# Works with GNU make 3.81 (macOS) and later.

PYTHON ?= python3
# More options for pip, for example a package index of your own or one with CPU-only builds of torch:
#   make demo PIP_ARGS="--extra-index-url https://..."
PIP_ARGS ?=
# More options for pytest: make test PYTEST_ARGS="-k turns -x"
PYTEST_ARGS ?=
# Which stacks to run, and --keep: make compose-test COMPOSE_TEST_ARGS="merged --keep"
COMPOSE_TEST_ARGS ?=
# Files of tests that run at the same time; many of them wait rather than compute.
TEST_PROCESSES ?= 2

VENV := .venv
BIN := $(VENV)/bin
# A stamp is as new as the last installation; pip runs again only when what it was told has changed.
RUN_STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
# What some tests drive and no Python package brings. Without them those tests are skipped, and say so.
TOOLS := chromium curl nginx prometheus
PINS := pyproject.toml constraints.txt
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo up test test-all test-gpu tools compose-test check format bench lock pages clean weights

help:  ## show this
	@echo "steno: real-time speech to text on your own machines"
	@echo
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /|/' \
		| awk -F'|' '{ printf "  make %-13s %s\n", $$1, $$2 }'
	@echo
	@echo "  Everything is installed into $(VENV); afterwards $(BIN)/steno --help tells the rest."

demo: $(RUN_STAMP)  ## see it work: start everything, play a recording into it, show the text live, stop everything
	@$(BIN)/steno demo

up: $(RUN_STAMP)  ## serve ws://localhost:8080 until Ctrl-C
	@$(BIN)/steno up

test: check weights  ## check, then run the tests (under 20 minutes on two cores)
	$(BIN)/python -m pytest -m "not slow" -n $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

test-all: check weights  ## check, then run all tests, also those that take long
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-gpu: check weights  ## the tests of what a GPU computes; needs an NVIDIA GPU, and STENO_DIGITS for real words
	$(BIN)/python -m pytest -m "gpu or not slow" tests/workers/test_streaming.py tests/workers/test_transducer.py \
	  tests/workers/test_native.py $(PYTEST_ARGS)

tools:  ## install the programs that some tests drive (Debian, Ubuntu; as root)
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(TOOLS)

# As root with Podman where Docker is not: `make tools TOOLS="podman runc netavark aardvark-dns debootstrap iptables"`, and
# podman-compose on PATH (`pipx install podman-compose`; in $(VENV) it would become one of our pins).
compose-test: $(DEV_STAMP) weights  ## build the images, run both Compose stacks and their merge, and test them for real
	$(BIN)/steno models fetch moonshine-tiny-en whisper-base silero-vad
	$(BIN)/python -m compose.test $(COMPOSE_TEST_ARGS)

check: $(DEV_STAMP)  ## format, lint, strict types, and the rules of the house
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_house.py

format: $(DEV_STAMP)  ## write the code as the formatter wants it, and mend what lint can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV_STAMP) weights  ## measure everything, here: one to two hours (steno bench all --short: minutes)
	$(BIN)/steno bench all

lock: $(DEV_STAMP)  ## write what is installed now to constraints.txt, and the images' hashes to compose/requirements
	@$(BIN)/python -m pip freeze --exclude-editable --exclude pip --exclude setuptools --exclude wheel \
		| grep -v ' @ ' | sed -e 's/+[a-z0-9.]*$$//' > constraints.txt.new
	@{ echo '# What was tested together. Made by `make lock`; change pyproject.toml, not this.'; \
		cat constraints.txt.new; } > constraints.txt
	@rm constraints.txt.new
	@$(BIN)/python compose/lock.py
	@touch $(RUN_STAMP) $(DEV_STAMP)
	@echo "constraints.txt holds $$(grep -c == constraints.txt) versions"

pages: $(DEV_STAMP)  ## write the pages that follow from the code: docs/settings.md, the chart's table of values
	$(BIN)/python -m compose.pages

clean:  ## remove what was made here; fetched weights stay (steno models remove)
	rm -rf $(VENV) .venv-clients build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

weights: $(DEV_STAMP)
	@$(BIN)/steno models fetch

constraints.txt:  # a tree without pins: the newest versions, to be pinned with `make lock`
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "steno needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1 || echo missing)." >&2; \
		echo "Name another one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { \
		echo "Making $(VENV) failed. On Debian and Ubuntu: apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }

$(RUN_STAMP): $(PINS) | $(BIN)/python
	@echo "installing (torch is large: the first time takes minutes) ..."
	@$(PIP_INSTALL) -e .
	@touch $@

$(DEV_STAMP): $(PINS) | $(BIN)/python
	@echo "installing, with what tests and checks need (the first time takes minutes) ..."
	@$(PIP_INSTALL) -e '.[dev]'
	@touch $(RUN_STAMP) $@
