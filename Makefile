# SPDX-License-Identifier: BSD-2-Clause
# Every target sets up what it needs: Python 3.11 or newer, g++, make, perl and git are enough.
#
#   make setup       .venv with the packages that pdm.lock pins
#   make run         the ZCU102 Verilog, and one photograph through it with each kind of selector;
#                    then scenes of digits through a trained network on the smallest configuration
#                    [IMAGE= MODEL= CONFIG= SELECTORS="threshold topk none" BLOCKS=3,6,9 SCENES=8]
#   make test        lint, and every test that is not slow
#   make test-full   lint, and every test
#   make lint        ruff and mypy

PYTHON ?= python3
MODEL  := deit_tiny
CONFIG := zcu102
IMAGE  ?=
# The test networks have too few blocks for the selectors of DeiT.
SELECTORS ?= $(if $(filter %_test,$(MODEL)),none,threshold topk)
BLOCKS ?= 3,6,9
# Scenes for testing that are classified, from the first on; 0 for none.
SCENES ?= 8
# Processes for tests/; those of sim/ run one after another, each of their builds takes all cores.
WORKERS ?= auto

VENV   := .venv
VPY    := $(VENV)/bin/python
PIP    := $(VPY) -m pip --disable-pip-version-check
STAMP  := $(VENV)/.locked
PYTEST := $(VPY) -m pytest
UNIT   := tests -n $(WORKERS) --maxprocesses 8 --dist loadfile
# The Tcl of Python runs the scripts for Vivado; some systems have it as a package of its own.
TCL    := @$(VPY) -c "import tkinter" 2> /dev/null || echo "NOT CHECKED: the scripts for Vivado, \
	which need the tkinter of Python (python3-tk on Debian and Ubuntu)"

.DELETE_ON_ERROR:
.PHONY: setup run test test-full lint
.NOTPARALLEL:

# Tests and simulations call make themselves: theirs is not a part of this one.
unexport MAKEFLAGS MFLAGS MAKELEVEL
# The Yosys that is pinned with Amaranth writes the Verilog, whatever else is installed.
export AMARANTH_USE_YOSYS := builtin

setup: $(STAMP)
	@echo "$(VENV) holds what pdm.lock pins"

# torch comes first and by itself: where pip is configured with a CPU build it takes that, and the
# CUDA packages that are locked beside it stay out. The rest is exactly what pdm.lock lists.
$(STAMP): pdm.lock .ci/locked.py
	@for tool in $(PYTHON) g++ perl git; do command -v $$tool > /dev/null || \
	    { echo "set-up needs $$tool, which is not on PATH" >&2; exit 1; }; done
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"$(PYTHON) is \
	Python {v[0]}.{v[1]}, 3.11 or newer is needed: make PYTHON=...")'
	@echo "Set-up: the packages of pdm.lock into $(VENV), the first time some minutes"
	$(PIP) --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(VPY) .ci/locked.py > $(VENV)/constraints.txt
	$(VPY) .ci/locked.py --without torch > $(VENV)/requirements.txt
	@echo "torch: some 200 MB where pip is configured with a CPU build, else several GB with CUDA"
	$(PIP) install -qq --constraint $(VENV)/constraints.txt torch
	$(PIP) install -qq --no-deps --requirement $(VENV)/requirements.txt
	@touch $@

run: $(STAMP)
	@echo "Emission: build/$(CONFIG)/heatvit.v and heatvit.json"
	$(VPY) -m rtl.top --emit verilog --config $(CONFIG) --output build/$(CONFIG)
	@echo "Simulation: one image through $(MODEL), every stage compared with the golden model"
	@for selector in $(SELECTORS); do \
	    echo; echo "Token selectors: $$selector"; \
	    $(VPY) -m sim.run --model $(MODEL) --config $(CONFIG) --selector $$selector \
	        --blocks $(BLOCKS) --output build/run/$$selector $(if $(IMAGE),--image "$(IMAGE)") \
	        || exit; done
	@if [ "$(SCENES)" != 0 ]; then \
	    echo; echo "Trained network: $(SCENES) test scenes of digits through scenes on tiny"; \
	    $(VPY) -m sim.run --model scenes --config tiny --checkpoint models/scenes/scenes_threshold.hv \
	        --scenes $(SCENES) --output build/run/scenes; fi

lint: $(STAMP)
	$(VPY) -m ruff check .
	$(VPY) -m mypy

test: lint
	$(PYTEST) -m "not slow" $(UNIT)
	$(PYTEST) -m "not slow" sim
	$(TCL)

test-full: lint
	$(PYTEST) $(UNIT)
	$(PYTEST) sim
	$(TCL)
