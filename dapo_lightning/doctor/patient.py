"""What a run is made of, as far as the doctor examines it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.data import Dataset
from dapo_lightning.draws.length import LengthLimit
from dapo_lightning.environment import Environment
from dapo_lightning.policy import Policy
from dapo_lightning.policy.codec import Codec
from dapo_lightning.reward import Reward
from dapo_lightning.rollout import Rollout
from dapo_lightning.types import Generation


@dataclass(frozen=True)
class Patient:
    """The parts of a run.

    Args:
        settings: the resolved configuration.
        reward: leaves out references that it cannot read; not started yet.
        load: the maximum number of tokens of a prompt and its completion together -> the untrained policy.
        model: its configuration.
    """

    settings: Mapping[str, Any]
    dataset: Dataset
    codec: Codec
    limit: LengthLimit
    environment: Environment
    reward: Reward
    algorithm: Algorithm
    rollout: Rollout
    generation: Generation
    load: Callable[[int], Policy]
    model: PreTrainedConfig | None
