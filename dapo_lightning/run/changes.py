"""Which settings of a run may be changed when it is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.options import chosen_options, groups
from dapo_lightning.utils.overrides import override_key

VALUES = (
    "optimizer", "schedule", "clip", "loss", "overlong", "sampling", "advantage", "kl", "correction", "rejection",
    "entropy", "evaluation", "callbacks", "logger", "temperature", "top_p", "top_k", "min_p", "max_gradient_norm",
    "micro_batch_tokens", "num_warmup_steps",
)  # fmt: skip
"""Keys, and groups whose values may be changed."""
OPTIONS = ("schedule", "logger")
"""Groups of which another option may be chosen."""
_REASONS = {
    "policy": "the checkpoint holds weights of the policy of this run",
    "critic": "the checkpoint holds weights of the critic of this run",
    "module": "the checkpoint belongs to this module",
    "data": "the run continues in the same order of prompts",
    "datamodule": "the run continues in the same order of prompts",
    "seed": "the run continues with the same random numbers and the same order of prompts",
    "trainer": "the precision is part of the computation",
}


def apply_changes(saved: DictConfig, config: DictConfig, overrides: list[str], hydra_config: DictConfig) -> None:
    """Changes the configuration of a run as the command says.

    Args:
        config: composed from the command alone.
        overrides: those that change something.

    Raises:
        ConfigError: if a setting cannot be changed, with the reason.
    """
    chosen = chosen_options(hydra_config)
    for override in overrides:
        key = override_key(override)
        group = key.partition(".")[0]
        is_option = key in groups()
        if is_option and chosen[key] == saved.choices.get(key):
            continue  # only names the option that the run has
        if group not in (OPTIONS if is_option else VALUES) or override.startswith("~"):
            reason = _REASONS.get(
                group, "another option needs a new run" if is_option else "it is part of the run itself"
            )
            raise ConfigError(f"{override}: cannot be changed when a run is resumed, because {reason}.")
        if key == "temperature" and OmegaConf.select(saved, "sampling.surplus") == "carry":
            raise ConfigError(f"{override}: cannot be changed, because sampling.surplus=carry has kept groups "
                              "that were sampled at the old temperature.")  # fmt: skip
        if is_option:
            saved[key], saved.choices[key] = config[key], chosen[key]  # it may refer to keys of the run
        else:
            OmegaConf.update(saved, key, OmegaConf.select(config, key), merge=False, force_add=True)


def may_change(override: str) -> bool:
    """Whether `changes=true` would let a command change this."""
    key: Any = override_key(override)
    return key.partition(".")[0] in (OPTIONS if key in groups() else VALUES)


def last_values(changes: list[dict[str, Any]], step: int) -> Mapping[str, Any]:
    """Returns the new values of the changes that apply after a DAPO step, by key."""
    return {change["key"]: change["new"] for change in changes if change["step"] == step}
