# Everything runs in .venv, which is made when it is missing (another place: make VENV=/path ...).
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# A process for each core, the tests of a file in one of them, files with slow tests first (tests/conftest.py).
IN_PARALLEL := --numprocesses auto --dist loadfile --no-loadscope-reorder

# What `make demo` compares: any methods and invented languages (conf/world/miniature.yaml), separated by commas.
# MODEL=miniature is a BERT.
# METHODS=all takes the ten of ALL; lt_sft, rand_sft and bitfit can be named too.
MODEL ?= miniature_llama
METHODS ?= none,seq_bn_inv
ALL := none,seq_bn,seq_bn_inv,madx2,double_seq_bn,par_bn,lora,ia3,prefix_tuning,full
LANGS ?= qaa,qad,qae

.PHONY: help setup demo report test test-fast test-long lint miniature

help: ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## make the environment from pyproject.toml and constraints.txt

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "xlt needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup ## what a language module buys in a language that the model knows and in two that it does not: minutes, no network
	$(BIN)/python run.py -m model=$(MODEL) data=miniature task=mini_topic train=demo lang=$(LANGS) method=$(if $(filter all,$(METHODS)),$(ALL),$(METHODS)) seed=0,1,2
	@echo
	@echo "The model was pretrained on qaa and qac. qad is a relative of theirs in a script that it knows; qae is one in a script that"
	@echo "it has met in a fifth of its documents, transliterated ones of qaa and qac."
	@echo "Next: make demo METHODS=none,seq_bn,full LANGS=qad,qda       other methods; a language without relatives"
	@echo "      $(BIN)/python scripts/miniature.py show qad            what these languages look like"
	@echo "      $(BIN)/python run.py plan=true lang=mt method=seq_bn   the same for real: mBERT, GlotCC, SIB-200"

# Where the runs are: make report OUTPUTS=/data/outputs
OUTPUTS ?= outputs

report: setup ## one page with all runs, plots and papers' tables: outputs/report/index.html
	$(BIN)/python scripts/report.py paths.outputs=$(OUTPUTS)

test: setup ## all tests but the longest: about twelve minutes on two cores
	$(BIN)/python -m pytest $(IN_PARALLEL)

test-fast: setup ## without the slow ones
	$(BIN)/python -m pytest $(IN_PARALLEL) -m 'not slow and not long'

test-long: setup ## the longest, minutes each
	$(BIN)/python -m pytest $(IN_PARALLEL) -m long

lint: setup ## style and simple mistakes
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

miniature: setup ## pretrain the miniature backbones again and compare them, bit for bit, with the package's
	$(BIN)/python scripts/miniature.py backbones
