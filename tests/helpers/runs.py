"""Whole runs of `train.py` on a policy small enough for tests, inside this process or in one of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from transformers import AutoModelForCausalLM

from dapo_lightning.draws.fill import PromptDraws
from dapo_lightning.run import build, cli
from dapo_lightning.run.command import as_dict
from dapo_lightning.run.folder import read_config
from dapo_lightning.run.session import train
from dapo_lightning.step.module import DAPOModule

ROOT = Path(__file__).parents[2]

SMALL = (
    "policy.hidden_size=32", "policy.intermediate_size=64", "policy.num_heads=2", "policy.warm_start=null",
    "data.num_train=10", "data.num_validation=8", "evaluation.num_prompts=8", "evaluation.num_completions=2",
    "evaluation.every=2", "reward=function", "reward.path=rewards.even_length", "num_steps=4",
    "num_prompts_per_step=4", "num_completions_per_prompt=4", "num_gradient_steps=2", "num_warmup_steps=2",
    "max_new_tokens=12", "overlong.cache_tokens=4", "optimizer.lr=1e-3", "micro_batch_tokens=200",
    "callbacks.checkpoint.every=1", "callbacks.completions.every=2",
)  # fmt: skip


def config(*overrides: str) -> DictConfig:
    """The composed configuration, as `train.py` gets it."""
    with initialize(version_base="1.3", config_path="../../conf"):
        composed = compose("config", overrides=list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(composed)
    with open_dict(composed):
        del composed["hydra"]
    return composed


def run(folder: Path, *overrides: str) -> Path:
    """Runs in this process into `folder`."""
    small = [o for o in SMALL if not any(o.split("=")[0] == other.split("=")[0] for other in overrides)]
    for group in ("policy", "data"):  # another option has other settings
        if any(other.startswith(f"{group}=") for other in overrides):
            small = [o for o in small if not o.startswith(f"{group}.")]
    if "reward=function" not in overrides and any(other.startswith("reward=") for other in overrides):
        small = [o for o in small if not o.startswith("reward.path")]
    if any(
        o in overrides for o in ("overlong=none", "overlong=filter", "experiment=grpo", "experiment=reinforce_clip")
    ):
        small = [o for o in small if not o.startswith("overlong.")]
    start(config(*small, *overrides, f"run_folder={folder}"))
    return folder


def run_interrupted(folder: Path, *overrides: str) -> Path:
    """A run that fails in its third step."""
    with pytest.MonkeyPatch.context() as patch:
        step = DAPOModule.training_step

        def interrupted(module: DAPOModule, draws: PromptDraws, batch_idx: int) -> object:
            if module.history.dapo_steps == 2:
                raise RuntimeError("pulled the plug")
            return step(module, draws, batch_idx)

        patch.setattr(DAPOModule, "training_step", interrupted)
        with pytest.raises(RuntimeError, match="pulled the plug"):
            run(folder, *overrides)
    return folder


def resume(folder: Path, *overrides: str) -> None:
    """Continues a run in this process."""
    saved = OmegaConf.create(read_config(folder) | {"resume": str(folder)})
    config("run_folder=x")  # Hydra's own state, as a new process would have it
    start(OmegaConf.merge(saved, OmegaConf.from_dotlist(list(overrides))))


def start(composed: DictConfig) -> None:
    """What the command does, without its handling of errors."""
    module, data, trainer = build.set_up(composed)
    try:
        train(as_dict(composed), module, data, trainer)
    finally:
        module.close_rewards()


def command(folder: Path, *overrides: str) -> subprocess.Popen:
    """Starts `python train.py` in a new process. If it resumes a run with a reward of these tests, the command repeats
    the reward, as required."""
    for resumed in [override for override in overrides if override.startswith("resume=")]:
        overrides = (*overrides, *own_reward(Path(resumed.removeprefix("resume="))))
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/helpers'}", "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, str(ROOT / "train.py"), *overrides, f"hydra.run.dir={folder}"]
    return subprocess.Popen(arguments, env=environment, cwd=folder.parent, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


def ends_with(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> str:
    """Runs `python train.py` in this process, which takes seconds less than in a new one, and returns its last words: a
    sentence, or nothing if it succeeds. Other errors are raised."""
    monkeypatch.setattr("sys.argv", ["train.py", *overrides])
    try:
        cli.main()
    except SystemExit as end:
        return str(end.code or "")
    return ""


def own_reward(folder: Path) -> list[str]:
    """Returns the overrides that name the reward of a run, if it is a function of these tests."""
    path = folder / "config.yaml"
    reward = OmegaConf.load(path).reward if path.is_file() else {}
    return ["reward=function", f"reward.path={reward['path']}"] if "path" in reward else []


def finish(process: subprocess.Popen, seconds: float = 300) -> str:
    """What a run that is to succeed has printed."""
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, output
    return output


def wait_for(condition: Callable[[], bool], process: subprocess.Popen | None = None, seconds: float = 150) -> None:
    """Until the condition holds, while the process lives."""
    deadline = time.time() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.time() < deadline
        time.sleep(0.005)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The exported policy's weights, loaded as any user would."""
    return AutoModelForCausalLM.from_pretrained(folder / "policy").state_dict()


def assert_same_weights(one: Path, other: Path) -> None:
    """Bit for bit."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), f"{name} differs by {(ours[name] - theirs[name]).abs().max()}"
