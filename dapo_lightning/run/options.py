"""Reads conf/: its groups, the options of each group, and the comments that describe them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from dapo_lightning.utils.overrides import leaves

CONF = Path(__file__).parents[1] / "conf"
RENAMED = {
    "experiment=ppo_clip": "experiment=reinforce_clip",
    "experiment=paper_32b": "recipe=paper_32b",
    "logger=tensorboard_and_csv": "logger=[tensorboard,csv]",
}
"""Old names of options, which still work for one release and log a warning."""
RENAMED_KEYS = {
    "policy.gradient_checkpointing": "trainer.activation_checkpointing",
    "trainer.strategy.timeout_minutes": "trainer.timeout_minutes",
}
"""Old names of keys, whose refusal says the new one."""


@cache
def groups() -> dict[str, str | None]:
    """Returns the config groups in the order of conf/config.yaml, each with its default option, or with a list of
    options as it is written on the command line, such as `[tensorboard,csv]`."""
    defaults = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    return {
        group: f"[{','.join(option)}]" if isinstance(option, list) else option
        for entry in defaults
        if isinstance(entry, Mapping)
        for group, option in entry.items()
        if not group.startswith("override ")
    }


def takes_list(group: str) -> bool:
    """Whether several options of a group can be chosen together."""
    return str(groups()[group]).startswith("[")


def in_list(option: Any) -> list[str]:
    """Returns the names in a list of options, `[tensorboard,csv]` or a list of Python; a single option is a list of
    one."""
    names = option if isinstance(option, list) else str(option).strip("[]").split(",")
    return [str(name).strip() for name in names if str(name).strip()]


def chosen_options(hydra_config: DictConfig) -> dict[str, str]:
    """Returns the option of each config group, without Hydra's own groups, which do not affect results. Hydra does not
    record lists of options, so they are read from the overrides."""
    recorded = hydra_config.runtime.choices
    chosen = {group: option for group, option in recorded.items() if "hydra/" not in group}
    parse = OverridesParser.create().parse_override
    given = [parse(text) for text in OmegaConf.to_container(hydra_config.overrides.task, resolve=False)]  # type: ignore[union-attr]
    for group in filter(takes_list, groups()):
        names = in_list(recorded.get(group, groups()[group]))
        for override in given:
            if override.key_or_group == group:
                before = in_list(groups()[group]) if override.is_add() else []
                names = [*before, *in_list(override.value())]
        chosen[group] = f"[{','.join(names)}]"
    return chosen


@cache
def options(group: str) -> dict[str, str]:
    """Returns the options of a group with the first comment of their files, without old names."""
    found = {}
    for path in sorted((CONF / group).glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        comments = [line.lstrip("# ") for line in lines if line.startswith("#") and "@package" not in line]
        if f"{group}={path.stem}" not in RENAMED:
            found[path.stem] = comments[0] if comments else ""
    return found


def is_global(group: str) -> bool:
    """Whether the options of a group set keys of other groups only, as recipes and experiments do."""
    return all("@package _global_" in path.read_text(encoding="utf-8") for path in (CONF / group).glob("*.yaml"))


def options_with(group: str, key: str) -> list[str]:
    """Returns the options of a group whose files set a key."""
    found = []
    for option in options(group):
        content: Any = yaml.safe_load((CONF / group / f"{option}.yaml").read_text(encoding="utf-8")) or {}
        names = leaves({name: value for name, value in content.items() if name != "defaults"})
        if any(name == key or name.startswith(f"{key}.") for name in names):
            found.append(option)
    return found


def numbers_of_options() -> list[str]:
    """Returns the numeric keys, such as `clip.upper`, of all options in conf/ whose class is in
    `dapo_lightning.algorithm`. Values that are computed from other keys count as numbers."""
    found = set()
    for path in CONF.glob("*/*.yaml"):
        option = yaml.safe_load(path.read_text(encoding="utf-8"))
        if str(option.get("_target_", "")).startswith("dapo_lightning.algorithm."):
            numbers = (name for name, value in option.items() if type(value) in (int, float) or "${" in str(value))
            found |= {f"{path.parent.name}.{name}" for name in numbers}
    return sorted(found)


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns " Did you mean ...?" with the names that are most similar to a misspelt one, or an empty text."""
    last = name.rpartition(".")[2]
    whole = [(SequenceMatcher(None, name, other).ratio(), other) for other in known]
    parts = [(SequenceMatcher(None, last, other.rpartition(".")[2]).ratio(), other) for _, other in whole]
    for likeness in (whole, parts):
        best = max(likeness)[0]
        if best > 0.75:
            return f" Did you mean {' or '.join(other for value, other in likeness if value > best - 0.02)}?"
    return ""
