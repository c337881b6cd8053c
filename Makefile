# These commands set everything up on a machine that has python3 (3.10 or newer) and make:
#   make demo   choose the best of ten noises with the embedded model; video, report and record in out/
#   make test   lint, types, documentation and the default tests
#   make table  docs/pipelines.md anew, from a run of every pipeline of its table
#   make test-oldest   the tests of pipelines with the oldest supported diffusers, in an environment of its own
#   make install-check   the wheel into an empty environment, and the first videos from there, timed;
#                        WITH="diffusers==0.38.0" asks for versions, KIND=sdist takes the sdist
# PYTHON=python3.12 chooses the interpreter of a new environment, VENV=folder its place (OLDEST_VENV and
# CHECK_VENV for the last two).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# An installation is known by what it was made from, so a second run has nothing to do.
KEY := $(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
RUNTIME := $(VENV)/.seedbed-runtime-$(KEY)
DEV := $(VENV)/.seedbed-dev-$(KEY)

# Nothing but the installation may reach for the network.
export HF_HUB_OFFLINE := 1
export MPLBACKEND := Agg
export NO_MKDOCS_2_WARNING := 1

# The oldest supported diffusers, with the transformers of its time.
OLDEST := diffusers==0.38.0 transformers==4.57.6
OLDEST_VENV ?= .venv-oldest

# What a user gets: the versions that pip finds, but for those asked for.
CHECK_VENV ?= .venv-check
KIND ?= wheel
WITH ?=

.PHONY: demo test table test-oldest install-check
.DELETE_ON_ERROR:

demo: $(RUNTIME)
	@mkdir -p out
	$(BIN)/seedbed generate "a red circle moving left" --candidates 10 --seed 0 --verifier shapes \
		--out out/demo.mp4

test: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mkdocs build --quiet --strict
	@# The tensors of the tests are tiny: a second thread per operation only gets in the way.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

table: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.breadth.table

test-oldest:
	@test -x $(OLDEST_VENV)/bin/pip || $(PYTHON) -m venv $(OLDEST_VENV)
	@grep -vE '^(diffusers|transformers|tokenizers|huggingface[-_]hub)==' constraints.txt \
		> $(OLDEST_VENV)/constraints.txt
	$(OLDEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c $(OLDEST_VENV)/constraints.txt $(OLDEST) -e ".[dev]"
	OMP_NUM_THREADS=1 $(OLDEST_VENV)/bin/python -m pytest -p no:cacheprovider \
		tests/breadth tests/sessions tests/compat tests/acquisition tests/refinement tests/selection

install-check:
	@rm -rf $(CHECK_VENV)
	$(PYTHON) -m venv $(CHECK_VENV)
	@$(PYTHON) -m venv $(CHECK_VENV)/build
	@mkdir $(CHECK_VENV)/run
	$(CHECK_VENV)/build/bin/python -m pip install --quiet --disable-pip-version-check hatchling
	$(CHECK_VENV)/build/bin/python -m hatchling build -t $(KIND) -d $(CHECK_VENV)/dist
	@# From an empty folder and without PYTHONPATH, so that nothing of the checkout is imported.
	@cd $(CHECK_VENV)/run && unset PYTHONPATH && timed() { \
			start=$$(date +%s); "$$@" || exit; echo "$$(($$(date +%s) - start)) s: $$*"; } \
		&& timed ../bin/python -m pip install --quiet --disable-pip-version-check ../dist/* $(WITH) \
		&& timed ../bin/seedbed doctor \
		&& for video in first second; do timed ../bin/seedbed generate "a red circle moving left" \
			--candidates 10 --seed 0 --verifier shapes --out $$video.mp4; done

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "seedbed needs Python 3.10 or newer; name one: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): | $(BIN)/pip
	@echo "installing seedbed into $(VENV)"
	@rm -f $(VENV)/.seedbed-*
	@$(INSTALL) -e .
	@touch $@

$(DEV): | $(BIN)/pip
	@echo "installing seedbed and its development tools into $(VENV)"
	@rm -f $(VENV)/.seedbed-*
	@# Not within [dev]: the oldest transformers and Gradio need different versions of huggingface-hub.
	@$(INSTALL) -e ".[dev,ui]" playwright
	@touch $@ $(RUNTIME)
