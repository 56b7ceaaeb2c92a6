"""The config tree: every option composes and instantiates, mirrors the code, and refuses what has no meaning."""

import ast
import re
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from runs import ROOT, config

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.run import held_out_sets
from dapo_lightning.run.checks import check
from dapo_lightning.run.cli import main
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.trainer import build_trainer

OPTIONS = sorted((path.parent.name, path.stem) for path in (ROOT / "conf").glob("*/*.yaml"))
TECHNIQUES = tuple(field.name for field in fields(Algorithm))
EXTRAS = ("vllm", "wandb", "trackio", "mlflow")  # tested with the packages themselves in tests/slow
REQUIRED = {
    ("reward", "function"): ["reward.path=rewards.even_length"],
    ("data", "jsonl"): ["data.train_path=a", "data.validation_path=b"],
    ("data", "code"): ["data.train_path=a", "data.validation_path=b"],
    ("data", "hub"): ["data.train_path=a", "data.validation_path=b"],
    ("data", "reasoning_gym"): ["data.task=chain_sum"],
    ("reward", "reasoning_gym"): ["data=reasoning_gym", "data.task=chain_sum"],
    ("reward", "weighted"): ["reward.function.path=rewards.even_length"],
    ("advantage", "gdpo"): ["reward=weighted", "reward.function.path=rewards.even_length"],
    ("environment", "function"): ["environment.path=environments.fragile"],
    ("policy", "hub"): ["policy.name=a"],
    ("policy", "lora"): ["policy.name=a"],
}


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids="/".join)
def test_every_option_composes_and_instantiates(group, option, tmp_path, monkeypatch):
    if option.startswith("slurm"):
        in_slurm(monkeypatch, tasks=2)
    composed = config(f"{group}={option}", f"run_folder={tmp_path}", *REQUIRED.get((group, option), []))
    check(OmegaConf.to_container(composed, resolve=True))
    if group in ("experiment", "recipe"):
        return
    if group == "trainer":
        build_trainer(composed, checkpoint=None)
    elif group in WIRED:  # `build` adds what the other groups make
        assert instantiate(composed[group]).keywords
    elif option in EXTRAS and find_spec(option) is None:
        with pytest.raises(InstantiationException) as raised:
            instantiate(composed[group])
        assert option in str(raised.value.__cause__.__cause__ or raised.value)
    else:
        assert instantiate(composed[group]) is not None


def in_slurm(monkeypatch, tasks):
    for name, value in {"NTASKS": tasks, "NTASKS_PER_NODE": tasks, "NNODES": 1, "JOB_NAME": "job", "JOB_ID": 7}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    for name in ("PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")


@pytest.mark.parametrize("group", TECHNIQUES)
def test_the_config_tree_mirrors_the_code(group):
    for path in (ROOT / "conf" / group).glob("*.yaml"):
        target = OmegaConf.load(path)._target_
        assert target.startswith("dapo_lightning.algorithm."), path


@pytest.mark.parametrize(
    ("group", "option"), [o for o in OPTIONS if o[0] in ("rollout", "reward", "data", "policy", "environment")]
)
def test_the_config_tree_mirrors_the_other_rooms(group, option):
    composed = config(f"{group}={option}", "run_folder=x", *REQUIRED.get((group, option), []))
    assert composed[group]._target_.startswith(f"dapo_lightning.{group}.")


@pytest.mark.parametrize("group", TECHNIQUES)
def test_a_toggle_changes_its_own_group_and_nothing_else(group):
    base = OmegaConf.to_container(config("run_folder=x"), resolve=True)
    for path in (ROOT / "conf" / group).glob("*.yaml"):
        changed = OmegaConf.to_container(config(f"{group}={path.stem}", "run_folder=x"), resolve=True)
        assert {key for key in base if base[key] != changed[key]} <= {group}
        assert changed[group]["_target_"] == OmegaConf.load(path)._target_


EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if name != "paper_32b"])
def test_experiments_only_pick_techniques(experiment):
    dapo = OmegaConf.to_container(config("run_folder=x"), resolve=True)
    other = OmegaConf.to_container(config(f"experiment={experiment}", "run_folder=x"), resolve=True)
    assert {key for key in dapo if dapo[key] != other[key]} <= {*TECHNIQUES, "module"}


def test_the_library_s_dapo_is_that_of_the_configuration():
    composed = config("experiment=dapo", "run_folder=x")
    chosen = Algorithm(**{group: instantiate(composed[group]) for group in TECHNIQUES})
    assert Algorithm.dapo(composed.overlong.max_tokens, composed.overlong.cache_tokens) == chosen


def test_grpo_switches_off_all_four():
    grpo = config("experiment=grpo", "run_folder=x")
    assert (grpo.clip.lower, grpo.clip.upper) == (0.8, 1.2)
    names = [get_class(grpo[group]._target_).__name__ for group in TECHNIQUES]
    assert names == [
        "TokenRatio",
        "Clip",
        "SampleLevel",
        "NoOverlong",
        "Static",
        "GroupNormalized",
        "NoKL",
        "NoCorrection",
        "NoRejection",
        "NoEntropy",
        "NoCritic",
    ]


def test_a_toggle_on_the_command_line_beats_the_experiment():
    composed = config("experiment=grpo", "loss=token_level", "clip.upper=1.28", "run_folder=x")
    assert composed.loss._target_.endswith("TokenLevel") and composed.clip.upper == 1.28
    assert composed.sampling._target_.endswith("Static")


WIRED = ("module", "datamodule", "schedule")


def test_no_plain_key_is_unread():
    """Options of groups go to constructors, which refuse what they do not know; plain keys must be read by name, in the
    code or by the wiring of these groups."""
    source = "".join(path.read_text() for path in (ROOT / "dapo_lightning/run").glob("*.py"))
    wiring = "".join(path.read_text() for path in (ROOT / "conf").glob("*/*.yaml") if path.parent.name in WIRED)
    source += wiring.replace("${", "config.")
    plain = OmegaConf.load(ROOT / "conf/config.yaml")
    names = [key for key in plain if key not in ("defaults", "hydra", "evaluation", "plan", "doctor")]
    read_for_every_set = (*held_out_sets.NUMBERS, "sets")
    names += [f"evaluation.{key}" for key in plain.evaluation if key not in read_for_every_set]
    unread = [name for name in names if not re.search(rf'config\.{re.escape(name)}\b|settings\["{name}"\]', source)]
    assert not unread


REFUSED = [
    (["num_completions_per_prompt=1"], "num_completions_per_prompt=1"),
    (["num_prompts_per_step=10", "num_gradient_steps=4"], "num_prompts_per_step=10"),
    (["num_prompts_per_step=4", "num_completions_per_prompt=5", "trainer=ddp_cpu"], "5 completions"),
    (["num_steps=0"], "num_steps=0"),
    (["evaluation.num_completions=0"], "evaluation.num_completions"),
    (["trainer.strategy=fsdp"], "FSDP1"),
    (["trainer.precision=16-mixed"], "bf16-mixed"),
    (["trainer.precision=16"], "bf16-mixed"),
    (["trainer.precision=16-true"], "bf16-mixed"),
    (["trainer.precision=bf16-true"], "bf16-mixed"),
]


@pytest.mark.parametrize(("overrides", "says"), REFUSED, ids=lambda x: str(x))
def test_combinations_without_meaning_are_refused(overrides, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        check(OmegaConf.to_container(config(*overrides, "run_folder=x"), resolve=True))


def test_slurm_tasks_that_disagree_with_devices_are_refused(monkeypatch):
    resolved = OmegaConf.to_container(config("run_folder=x"), resolve=True)
    in_slurm(monkeypatch, tasks=2)
    with pytest.raises(ConfigError, match=r"SLURM starts 2 tasks on each of 1 node, but trainer\.devices=1"):
        check(resolved)
    check(OmegaConf.to_container(config("run_folder=x", "trainer=slurm"), resolve=True))
    check(OmegaConf.to_container(config("run_folder=x", "trainer=slurm_fsdp2"), resolve=True))
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")
    check(resolved)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["clip.upper=0.28"], "clip.upper=1.28"),
        (["temperature=0"], "temperature=0"),
        (["overlong.cache_tokens=1000"], "overlong.cache_tokens"),
        (["reward=function", "reward.path=no.such"], "reward.path"),
        (["policy.warm_start=nowhere"], "policy.warm_start=nowhere"),
        (["data=jsonl", "data.train_path=no", "data.validation_path=no"], "data.train_path"),
        (["num_completions_per_prompt=1"], "at least two"),
        (["correction=truncated"], "correction has nothing to correct"),
        (["correction=truncated", "correction.cap=0.5"], "correction.cap=0.5"),
    ],
)
def test_bad_values_are_one_sentence_and_no_traceback(overrides, says, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train.py", f"hydra.run.dir={tmp_path}", *overrides])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert says in str(exit_.value) and str(exit_.value).startswith("error: ")


PURE = ("torch", "math", "dataclasses", "typing", "collections", "statistics", "__future__")


def test_imports_run_one_way():
    """types -> algorithm -> rollout, reward, data -> policy -> environment -> draws -> step -> callbacks -> study, plan
    -> report -> doctor -> run"""
    levels = {
        "types": 0, "utils": -1, "grading": 0, "distributed": 0, "forward": 0,
        "algorithm": 1, "programs": 1, "rollout": 2, "reward": 2, "data": 2, "policy": 3, "environment": 4, "draws": 5,
        "step": 6, "callbacks": 7, "slurm": 8, "plan": 9, "study": 9, "report": 10, "doctor": 11,
        "run": 12, "train": 13,
    }  # fmt: skip
    for path in [*(ROOT / "dapo_lightning").rglob("*.py"), ROOT / "train.py"]:
        room = _room(path)
        if room is None:
            continue
        for name in _imported(path):
            if name.startswith("dapo_lightning."):
                other = name.split(".")[1]
                assert other == room or levels[other] < levels[room], f"{path} imports {name}"
            elif room == "algorithm":
                assert name.split(".")[0] in (
                    "torch",
                    "math",
                    "dataclasses",
                    "typing",
                    "collections",
                    "statistics",
                    "__future__",
                ), path
            elif room not in ("train", "run"):
                assert name.split(".")[0] not in ("hydra", "omegaconf"), f"{path}: only run/ knows it"
    assert "dapo_lightning.step.module" not in _imported(ROOT / "dapo_lightning/draws/datamodule.py")
    assert "dapo_lightning.draws.datamodule" not in _imported(ROOT / "dapo_lightning/step/module.py")


def _room(path: Path) -> str | None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts == ("dapo_lightning", "__init__"):
        return None
    return parts[1] if len(parts) > 1 else parts[0]


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "dapo_lightning"}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found - {"dapo_lightning"}
