"""Wrong commands: each is answered with one sentence that names the key and the remedy, before anything is loaded."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import ROOT

from dapo_lightning.policy.warm_start import WarmStart
from dapo_lightning.run import cli
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.targets import check_targets

# Refused before torch is imported.
AT_ONCE = [
    # misspelt keys
    ("num_step=10", "there is no key num_step. Did you mean num_steps?"),
    ("+num_step=10", "there is no key num_step. Did you mean num_steps?"),
    ("++num_step=10", "there is no key num_step. Did you mean num_steps?"),
    ("clipp=higher", "there is no key clipp. Did you mean clip?"),
    ("+clipp=higher", "there is no key clipp. Did you mean clip?"),
    ("clip.uper=1.3", "there is no key clip.uper. Did you mean clip.upper?"),
    ("lr=1e-3", "Did you mean optimizer.lr?"),
    ("learning_rate=1e-3", "Did you mean policy.warm_start.learning_rate?"),
    ("evaluation.num_completion=4", "Did you mean evaluation.num_completions?"),
    ("+evaluation.num_completion=4", "evaluation.num_completion: there is no such key, only every, num_prompts"),
    ("policy.warm_start.num_step=3", "Did you mean policy.warm_start.num_steps?"),
    ("callbacks.checkpont.every=5", "Did you mean callbacks.checkpoint.every?"),
    ("~callbacks.progres", "there is no key callbacks.progres"),
    ("plan.acelerator=h200", "Did you mean plan.accelerator?"),
    ("hydra.rn.dir=x", "there is no key hydra.rn.dir. Did you mean hydra.run.dir?"),
    ("hydra.launcher.n_jobs=2", "there is no key hydra.launcher.n_jobs"),
    ("+num_steps=3", "num_steps exists already: write num_steps=3."),
    # keys of another option
    ("kl.coefficient=0.01", "kl.coefficient belongs to kl=k1 and kl=k2 and kl=k3; kl=none has no such key. Choose one"),
    ("sampling=static sampling.max_rounds=2", "sampling.max_rounds belongs to sampling=dynamic"),
    ("loss.token_weight=0.3", "loss.token_weight belongs to loss=blend"),
    ("overlong=none overlong.cache_tokens=5", "belongs to overlong=punish and overlong=punish_and_filter"),
    ("correction.cap=2", "Add correction=truncated"),
    ("policy.lora.rank=8", "Add policy=lora"),
    ("data=reasoning_gym data.task=chain_sum data.options.min_terms=2", "data.options='{min_terms: 2}'"),
    # mappings
    ("evaluation={evry:3}", "there is no key evaluation.evry. Did you mean evaluation.every?"),
    ("reward=weighted reward.weights={mat:1}", "there is no key reward.weights.mat. Did you mean reward.weights.math?"),
    ("evaluation.sets=[a]", "evaluation.sets is a mapping {key: value}."),
    ("optimizer.betas={a:1}", "optimizer.betas is a list [a, b]."),
    ("~evaluation", "~evaluation: every run needs evaluation. Leave it out."),
    ("~num_steps", "~num_steps: every run needs num_steps. Leave it out."),
    # options that do not exist
    ("-m loss=glob(zz*)", "loss=glob(zz*): matches no option of blend, constant"),
    ("-m seed=glob(*)", "seed=glob(*): glob(...) is for groups of options"),
    ("clip=hgher", "symmetric. Did you mean higher?"),
    ("clip=null", "clip=null: choose one of "),
    ("experiment=grp", "Did you mean grpo?"),
    ("recipe=smollm", "smollm2_chain_sum"),
    ("optimizer=adam", "choose one of adamw"),
    ("logger=wand", "logger=wand: there is no such option"),
    ("logger=[csv,wand]", "logger=wand: there is no such option"),
    ("+logger=wand", "logger=wand: there is no such option"),
    (
        "logger.wandb.project=mine",
        "logger=[tensorboard,csv] has no such key. Add +logger=wandb",
    ),
    ("logger=csv logger.tensorboard.numbers=[]", "Add +logger=tensorboard"),
    (
        "loss=[token_level,sample_level]",
        "choose one of blend, constant, sample_level, token_level, token_level_per_prompt, not a list.",
    ),
    # values of the wrong type
    ("clip.upper=abc", "clip.upper=abc: must be a number."),
    ("clip.lower=higher", "clip.lower=higher: must be a number."),
    ("seed=abc", "seed=abc: must be a whole number, at least 0 and at most 4294967295."),
    ("seed=-1", "seed=-1: must be a whole number, at least 0 and at most 4294967295."),
    ("seed=4294967296", "seed=4294967296: must be a whole number, at least 0 and at most 4294967295."),
    ("temperature=hot", "temperature=hot: must be a number, above 0"),
    ("temperature=0", "temperature=0: must be a number, above 0 (a group sampled greedily has no variance"),
    ("evaluation.temperature=0", "Add evaluation.num_completions=1."),
    ("evaluation.temperature=-1", "evaluation.temperature=-1: must be a number, at least 0."),
    ("temperature=null", "temperature=null: must be a number, above 0"),
    ("optimizer.lr=abc", "optimizer.lr=abc: must be a number."),
    ("max_new_tokens=ten", "max_new_tokens=ten: must be a whole number, at least 1."),
    ("max_new_tokens=-4", "max_new_tokens=-4: must be a whole number, at least 1."),
    ("max_new_tokens=true", "max_new_tokens=true: must be a whole number, at least 1."),
    ("num_steps=2.5", "num_steps=2.5: must be a whole number, at least 1."),
    ("num_steps=0", "num_steps=0: must be a whole number, at least 1."),
    ("num_steps=", "num_steps= has no value: add one, or leave it out."),
    ("checkpoint=", "checkpoint= has no value"),
    ("resume=", "resume= has no value"),
    ("run_folder=", "run_folder= has no value"),
    ("-m seed=0,1 hydra.sweep.dir=", "hydra.sweep.dir= has no value"),
    # numbers without meaning
    ("temperature=nan", "temperature=nan: must be a finite number."),
    ("temperature=inf", "temperature=inf: must be a finite number."),
    ("max_gradient_norm=nan", "max_gradient_norm=nan: must be a finite number."),
    ("clip.upper=nan", "clip.upper=nan: must be a finite number."),
    ("kl=k3 kl.coefficient=nan", "kl.coefficient=nan: must be a finite number."),
    ("kl=k3 kl.coefficient=inf", "kl.coefficient=inf: must be a finite number."),
    ("evaluation.top_p=nan", "evaluation.top_p=nan: must be a finite number."),
    ("optimizer.betas=[0.9,nan]", "optimizer.betas.1=nan: must be a finite number."),
    ("reward.correct=nan", "reward.correct=nan: must be a finite number."),
    ("callbacks.health.min_entropy_share=nan", "must be a finite number."),
    ("advantage.epsilon=-1", "advantage.epsilon=-1: must be at least 0."),
    ("callbacks.completions.every=0", "callbacks.completions.every=0: must be at least 1."),
    ("datamodule.num_prompts_per_batch=0", "datamodule.num_prompts_per_batch=0: must be at least 1."),
    ("reward=math reward.num_workers=-1", "reward.num_workers=-1: must be at least 1."),
    ("reward=math reward.seconds=-1", "reward.seconds=-1: must be at least 0."),
    ("policy.warm_start.batch_size=0", "policy.warm_start.batch_size=0: must be at least 1."),
    ("policy.gradient_checkpointing=true", "policy.gradient_checkpointing is now trainer.activation_checkpointing."),
    ("num_warmup_steps=-5", "num_warmup_steps=-5: must be a whole number, at least 0."),
    ("trainer.precision=64-true", "trainer.precision=64-true: choose 32-true or bf16-mixed"),
    ("trainer.precision=bf16-true", "trainer.precision=bf16-true: choose 32-true or bf16-mixed"),
    ("trainer.precision=fp32", "trainer.precision=fp32: choose 32-true or bf16-mixed"),
    ("num_warmup_steps=-1", "num_warmup_steps=-1: must be a whole number, at least 0."),
    ("max_prompt_tokens=0", "max_prompt_tokens=0: must be a whole number or null, at least 1."),
    ("micro_batch_tokens=many", "micro_batch_tokens=many: must be a whole number"),
    ("max_gradient_norm=0", "above 0 (inf: no clipping)"),
    ("evaluation.num_prompts=0", "evaluation.num_prompts=0: must be a whole number or null, at least 1."),
    ("evaluation=5", "evaluation=5: set its keys one by one"),
    ("policy.hidden_size=big", "policy.hidden_size=big: must be a number."),
    ("data.num_train=lots", "data.num_train=lots: must be a number."),
    ("callbacks.checkpoint.every=often", "callbacks.checkpoint.every=often: must be a number."),
    ("callbacks.progress=none", "callbacks.progress=null switches it off"),
    ("plan.keep_rate=high", "plan.keep_rate=high: must be a number or null, above 0."),
    ("mode=test", "mode=test: choose train, evaluate, plan or doctor."),
    ("resume=5", "resume=5: holds no config.yaml with a checkpoint"),
    # values that are missing
    ("policy=hub", "policy.name has no value: add policy.name=<value>."),
    ("policy=lora", "policy.name has no value"),
    ("data=jsonl", "data.train_path has no value"),
    ("data=hub", "data.train_path has no value"),
    ("data=reasoning_gym", "data.task has no value"),
    ("reward=function", "reward.path has no value: add reward.path=<value>. (reward=function: "),
    ("reward=weighted", "reward.function.path has no value"),
    ("reward=reasoning_gym", "reward.task takes its value from data.task"),
    ("trainer=slurm", "trainer.devices: Environment variable 'SLURM_NTASKS_PER_NODE' not found"),
    # combinations
    ("num_gradient_steps=3", "num_prompts_per_step a multiple of num_gradient_steps"),
    ("num_completions_per_prompt=1", "a group needs at least two"),
    ("trainer.precision=16", "bf16-mixed"),
    ("trainer.strategy=fsdp", "FSDP1"),
    ("trainer.accelerator=cpu trainer.offload_optimizer=true", "all memory is host memory"),
    # runs that do not exist, folders that cannot be made, sweeps without -m
    ("resume=nowhere", "resume=nowhere: holds no config.yaml with a checkpoint"),
    ("checkpoint=nowhere", "checkpoint=nowhere is for mode=evaluate"),
    (
        "mode=evaluate checkpoint=nowhere",
        "is neither the folder of a run, nor its folder checkpoints, nor a .ckpt file inside one",
    ),
    ("run_folder=/dev/null/x", "/dev/null/x cannot be created"),
    ("hydra.run.dir=/dev/null/x", "choose another run_folder=<folder>"),
    ("hydra/launcher=slurm", "hydra/launcher=slurm has no effect without -m"),
    ("clip.upper=1.2,1.3", "add -m"),
    ("-m run_folder=x clip.upper=1.2,1.3", "use hydra.sweep.dir="),
    ("-m clip.uper=1.2,1.3", "Did you mean clip.upper?"),
    ("-m hydra.sweeper.params={clip.upper:1}", "write the values to search as overrides"),
    ("-m hydra/sweeper=search hydra.sweeper.n_trials=2", "add values to search"),
    ("-m +hydra.sweeper.params.seed=0", "write the values to search as overrides"),
    ("-m clip=higher,nne", "clip=nne: there is no such option"),
    # what Hydra cannot read
    ("data.answer_after=#:{", "cannot be read"),
    ("foo", "foo: cannot be read, because it has no value: foo=<value>."),
]
# Refused by the classes themselves or by their signatures, once they are imported.
BY_THE_CLASSES = [
    ("+clip.uper=1.3", "clip.uper=1.3: Clip has no such argument, only lower, upper. Did you mean upper?"),
    ("~clip.upper", "clip.upper has no value: add clip.upper=<value>."),
    ("+trainer.max_epoch=3", "Trainer has no such argument. Did you mean max_epochs?"),
    ("+trainer.max_epochs=3", "trainer.max_epochs is set by the run itself"),
    ("+trainer.limit_val_batches=x", "trainer.limit_val_batches=x: must be a"),
    ("clip.upper=0.28", "if you meant epsilon_high=0.28, write clip.upper=1.28"),
    ("sampling.at_cap=maybe", "sampling.at_cap='maybe'"),
    ("sampling.max_rounds=2.5", "sampling.max_rounds=2.5: must be a whole number."),
    ("reward.marker=1", "reward.marker=1: must be text. To give a number as text, quote it twice"),
    ("optimizer._target_=torch.optim.SGD", "optimizer.betas=[0.9, 0.95]: SGD has no such argument"),
    ("optimizer._target_=torch.optim.Adagard", "there is no such class or function"),
    ("optimizer.betas=[0.9]", "optimizer.betas=[0.9]: must be a list"),
    ("trainer.accelerator=cuda", "trainer: "),
    ("policy=hub policy.name=./nowhere", "policy.name=./nowhere"),
    ("policy.hidden_size=255", "hidden size (255)"),
    ("overlong.cache_tokens=1000", "overlong.cache_tokens=1000"),
    ("top_p=1.5", "top_p=1.5"),
    ("correction=truncated", "correction has nothing to correct"),
    ("rollout=vllm rollout.tensor_parallel_size=2", "rollout.tensor_parallel_size=2: it must divide the number"),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def files() -> list[Path]:
    return list(Path.cwd().rglob("*"))


@pytest.mark.parametrize(("command", "says"), AT_ONCE, ids=lambda text: text)
def test_it_is_refused_at_once(command, says):
    with pytest.raises(ConfigError) as error:
        cli._checked_command(command.split(" "))
    sentence = str(error.value)
    assert says in sentence and "\n" not in sentence and len(sentence) < 600
    assert not files()


@pytest.mark.parametrize(("command", "says"), BY_THE_CLASSES, ids=lambda text: text)
def test_it_is_refused_by_the_classes(command, says, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", *command.split(" ")])
    monkeypatch.setattr(WarmStart, "__call__", lambda *_: pytest.fail("it was not refused"))
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    sentence = str(exit_.value)
    assert sentence.startswith("error: ") and says in sentence and "Traceback" not in sentence
    assert not [path for path in files() if path.is_file()]


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("import nothing_here", "No module named 'nothing_here'"),
        ("class X(:", "SyntaxError: invalid syntax"),
        ("raise RuntimeError('no GPU')", "RuntimeError: no GPU"),
    ],
)
def test_a_module_of_the_user_that_cannot_be_imported(module, reason, tmp_path, monkeypatch):
    (tmp_path / "my_callbacks.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as error:
        check_targets({"callbacks": {"x": {"_target_": "my_callbacks.X"}}})
    assert str(error.value).startswith(
        f"callbacks.x._target_=my_callbacks.X: my_callbacks cannot be imported ({reason}"
    )


@pytest.mark.parametrize(
    "command",
    [
        "evaluation.temperature=0 evaluation.num_completions=1",
        "clip.upper=inf reward=math reward.wrong=-2 callbacks.health.min_entropy_share=0",
        "data=reasoning_gym data.task=chain_sum reward=reasoning_gym",
        "recipe=smollm2_chain_sum policy.system_prompt=null",
        "policy=hub policy.name=a data=jsonl data.train_path=a data.validation_path=b reward=math",
        "trainer=ddp_cpu trainer.devices=4",
        "logger.csv=null callbacks.progress=null",
        "recipe=paper_32b experiment=grpo mode=plan +plan.memory_bytes=1e9",
        "max_gradient_norm=inf evaluation.num_prompts=null overlong.cache_tokens=5 num_warmup_steps=0",
        "~experiment recipe=fast_dev_run",
    ],
)
def test_what_is_right_is_let_through(command):
    assert cli._checked_command(command.split(" "))[-1].startswith("hydra.run.dir='")


def test_there_are_sixty():
    assert len(AT_ONCE) + len(BY_THE_CLASSES) >= 60


@pytest.mark.parametrize("arguments", [["num_step=10"], ["clip.upper=abc"], ["policy=hub"], ["--help"]], ids=str)
def test_neither_torch_nor_lightning_is_imported(arguments):
    code = (
        "import sys; sys.argv[1:] = sys.argv[1:]\n"
        "from dapo_lightning.run.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'lightning', 'transformers', 'datasets', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    started = time.process_time()
    found = subprocess.run([sys.executable, "-c", code, *arguments], cwd=Path.cwd(), capture_output=True, text=True,
                           env={"PYTHONPATH": str(ROOT)}, check=False)  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert time.process_time() - started < 3 and not files()
