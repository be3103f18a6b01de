# make demo    pictures from the weights that come with the repository, in outputs/demo.png
# make test    the tests that take seconds
# make lint    style and types
# The first of them sets up .venv, which takes a minute or two and is not repeated until the requirements change.

PYTHON ?= python3
VENV ?= .venv
INSTALLED := $(VENV)/.installed
# the packages whose shape and type annotations the tests check while they run
CHECKED := data,tokenizer,model,diffusion,runtime,tasks,metrics,study

.PHONY: demo test test-compiled test-checked lint
demo: $(INSTALLED)
	$(VENV)/bin/python sample.py --demo

# Code under the checking hook can't be compiled, hence two calls; they run beside each other, a thread each.
test: export OMP_NUM_THREADS = 1
test: $(INSTALLED)
	$(MAKE) --jobs=2 test-compiled test-checked

test-compiled:
	$(VENV)/bin/pytest -q -m "not slow and compile"

test-checked:
	$(VENV)/bin/pytest -q -m "not slow and not compile" --jaxtyping-packages=$(CHECKED),beartype.beartype

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -c constraints.txt -e '.[dev,judges,plot,tracking]'
	touch $@
