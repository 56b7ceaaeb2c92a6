"""The held-out sets that `evaluation.sets` names, beside the one that belongs to the training data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.options import nearest

NUMBERS = ("every", "num_prompts", "num_completions", "max_new_tokens", "temperature", "top_p", "top_k", "min_p")
KEYS = ("data", "reward", *NUMBERS)
_NAME = re.compile(r"(?!turn_\d+$|reward$)\w[\w-]*")  # these would be taken for other metrics


def held_out_sets(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the settings of each set by its name, all keys of `KEYS`. Keys that a set leaves out are those of
    `evaluation`, except that all its prompts are evaluated; data and reward are those of the run.

    Raises:
        ConfigError: naming the key, if a name or a key cannot be used.
    """
    evaluation = config["evaluation"]
    inherited = {name: evaluation[name] for name in NUMBERS} | {"num_prompts": None}
    inherited |= {group: config[group] for group in ("data", "reward")}
    found = {}
    for name, given in (evaluation.get("sets") or {}).items():
        _check(name, given)
        data = given.get("data")
        if data and data.get("train_path") == "???":  # nothing is trained on
            given = given | {"data": data | {"train_path": None}}
        found[name] = inherited | given
    return found


def _check(name: Any, given: Any) -> None:
    path = f"evaluation.sets.{name}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{path}: a name consists of letters, digits, _ and -, and is not reward or turn_<number>.")
    if given is None:
        raise ConfigError(
            f"{path}=null: a set that takes all settings from the run is written {{}}. To remove a set, add ~{path}."
        )
    if not isinstance(given, Mapping):
        raise ConfigError(f"{path}={given}: must be a mapping with some of the keys {', '.join(KEYS)}.")
    for key, value in given.items():
        if key not in KEYS:
            raise ConfigError(f"{path}.{key}: there is no such key, only {', '.join(KEYS)}.{nearest(key, KEYS)}")
        if key in ("data", "reward") and not (isinstance(value, Mapping) and "_target_" in value):
            raise ConfigError(
                f"{path}.{key}={value}: choose an option with +{key}@{path}.{key}=<option>, or in the defaults list of "
                "a YAML file."
            )
