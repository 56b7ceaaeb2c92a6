"""dapo-lightning: run, ablate and understand DAPO (arXiv 2503.14476).

    import dapo_lightning
    result = dapo_lightning.run(["loss=token_level", "clip.upper=1.28", "num_steps=10"])

The classes below are loaded when they are first used, so that importing the package takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dapo_lightning import run as run
    from dapo_lightning.algorithm import Algorithm as Algorithm
    from dapo_lightning.draws.datamodule import PromptDataModule as PromptDataModule
    from dapo_lightning.draws.worker import RolloutWorker as RolloutWorker
    from dapo_lightning.policy import Policy as Policy
    from dapo_lightning.reward import Reward as Reward
    from dapo_lightning.step.module import DAPOModule as DAPOModule
    from dapo_lightning.step.ppo import PPOModule as PPOModule
    from dapo_lightning.types import Generation as Generation
    from dapo_lightning.types import Grade as Grade
    from dapo_lightning.types import Group as Group
    from dapo_lightning.types import Prompt as Prompt

_HOMES = {
    "Algorithm": "algorithm",
    "DAPOModule": "step.module",
    "Generation": "types",
    "Grade": "types",
    "Group": "types",
    "RolloutWorker": "draws.worker",
    "PPOModule": "step.ppo",
    "Policy": "policy",
    "Prompt": "types",
    "PromptDataModule": "draws.datamodule",
    "Reward": "reward",
}


def __getattr__(name: str) -> Any:
    """Loads a public name on its first use (PEP 562)."""
    if name == "run":
        return import_module("dapo_lightning.run")
    if name not in _HOMES:
        raise AttributeError(f"module 'dapo_lightning' has no attribute {name!r}")
    return getattr(import_module(f"dapo_lightning.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*_HOMES, "run"])
