"""Restricts what the configuration of a run folder can do, because the folder may come from somebody else.

A configuration can choose code to run, files to write and environment variables to read. In the configuration of a run
folder, only objects in the config tree, and files inside the folder, are accepted; everything else must be repeated on
the command line.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.options import groups
from dapo_lightning.utils.overrides import every_value, override_key, with_texts

_RESOLVER = re.compile(r"\$\{.*:", re.DOTALL)
MAX_REFERENCES = 16
_IN_SET = re.compile(r"evaluation\.sets\.[^.]+\.(data|reward)(?=\.)")  # an object of a held-out set
_NAMES_A_FILE = re.compile(r"path|dir|folder|file|checkpoints")


def check_foreign(config: Mapping[str, Any], folder: Path, now: DictConfig, origin: Mapping[str, Any]) -> None:
    """Checks a configuration that comes from a run folder.

    Args:
        folder: the folder in which the run may write.
        now: the configuration that is composed from the command line only.
        origin: overrides and choices of the run.

    Raises:
        ConfigError: with what to add to the command.
    """
    found = [key for key, value in foreign(config, folder).items() if OmegaConf.select(now, key) != value]
    if found:
        raise ConfigError(
            f"the configuration of that run refers to code, or to files outside its folder ({', '.join(found)}). A run "
            "folder may come from somebody else, so such values must be repeated on the command line. If you trust "
            f"them, add {shlex.join(confirmations(config, folder, origin))}."
        )


def check_links(folder: Path) -> None:
    """Raises a ConfigError if a folder to which the run will write contains links, because they may lead to any file
    of the user. (Weights & Biases links to its own log, and does not write through the link.)"""
    known = "wandb/*/logs/debug-core.log"
    links = sorted(str(path) for path in folder.rglob("*") if path.is_symlink() and not path.match(known))
    if links:
        raise ConfigError(
            f"{links[0]} is a link. A run folder may come from somebody else, and writing through a link could "
            "overwrite any of your files, so replace the link by the file or folder itself. (The run folder may be a "
            "link.)"
        )


def check_resolved(config: Mapping[str, Any]) -> None:
    """Raises a ConfigError if a saved configuration, although it is resolved, would read the environment or call a
    resolver, or if it contains values that `save_config` does not write, such as tuples, which the other checks would
    not search."""
    odd = [key for key, value in every_value(config) if not isinstance(value, str | int | float | None)]
    if odd:
        raise ConfigError(f"the configuration of that run contains a value in {odd[0]} that is not a plain value.")
    read = [key for key, value in every_value(config) if isinstance(value, str) and _RESOLVER.search(value)]
    if read:
        raise ConfigError(
            f"the configuration of that run would read the environment, or call a resolver, in {', '.join(read)}. "
            "This is not accepted from a run folder: use the exported policy with policy=hub "
            "policy.name=<run folder>/policy instead."
        )


def confirmations(config: Mapping[str, Any], folder: Path, origin: Mapping[str, Any]) -> list[str]:
    """Returns what to add to a command that resumes or evaluates a run: the option of each group with foreign values,
    and all overrides in this group (because an evaluation drops the old settings of a group that is chosen again)."""
    wanted: dict[str, None] = {}
    for key, value in foreign(config, folder).items():
        if in_set := _IN_SET.match(key):
            path = in_set[0]
            related = [o for o in origin["overrides"] if f"@{path}=" in o or override_key(o).startswith(f"{path}.")]
            wanted |= dict.fromkeys(related or [f"++{key}={value}"])
            continue
        group = key.partition(".")[0]
        related = [o for o in origin["overrides"] if override_key(o).startswith(f"{group}.")] or [f"{key}={value}"]
        wanted |= dict.fromkeys([f"{group}={origin['choices'].get(group)}", *related])
    return [override for override in wanted if not override.endswith("=None")]


def foreign(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the keys whose values must be repeated on the command line, with these values."""
    known = _targets_of_the_tree()
    found = {}
    for key, value in every_value(config):
        in_set = _IN_SET.match(key)
        group, name = in_set[1] if in_set else key.partition(".")[0], key.rpartition(".")[2]
        is_foreign = (
            (name == "_target_" and value not in known)
            or (group in ("reward", "environment") and (name == "path" or (".allow" in key and value)))
            or (group == "reward" and name == "sandbox" and value != "bubblewrap")  # programs run in or without it
            or (group == "rollout" and ".engine_args." in key)  # vLLM imports the classes that some of them name
            or (name == "trust_remote_code" and value)
            or (group == "logger" and name == "offline" and not value)  # it and the next two send data to a server
            or (group == "logger" and name in ("space_id", "tracking_uri") and value)
            or (group in ("logger", "callbacks") and name != "_target_" and _is_outside(name, value, folder))
        )
        if is_foreign:
            found[key] = value
    return found


def check_old_overrides(overrides: Any) -> list[str]:
    """Returns the overrides of an old run if they can be composed again.

    Raises:
        ConfigError: for one that would read the environment, call a resolver, or change Hydra itself, or if they refer
            to other keys so often that a short text could become one of gigabytes.
    """
    if (count := sum(str(override).count("${") for override in overrides)) > MAX_REFERENCES:
        raise ConfigError(
            f"the overrides of that run refer to other keys {count} times, and at most {MAX_REFERENCES} references are "
            "accepted from a run folder: evaluate its policy/ with policy=hub policy.name=<run folder>/policy instead."
        )
    for override in map(str, overrides):
        group = override_key(override).partition("@")[0]
        is_elsewhere = "/" in group or (group in groups() and ".." in override)  # not an option of the tree
        if _RESOLVER.search(override) or override.lstrip("+~").startswith("hydra") or is_elsewhere:
            raise ConfigError(
                f"the overrides of that run contain {override!r}, which is not accepted from a run folder: evaluate "
                "its policy/ with policy=hub policy.name=<run folder>/policy instead."
            )
    return list(map(str, overrides))


def escaped(value: Any) -> Any:
    """Escapes plain values, so that OmegaConf interpolates nothing in them."""
    return with_texts(value, lambda text: re.sub(r"(\\*)\$\{", r"\1\1\\${", text))


def _is_outside(name: str, value: Any, folder: Path) -> bool:
    if not isinstance(value, str) or not ("/" in value or ".." in value or _NAMES_A_FILE.search(name)):
        return False
    return not Path(os.path.abspath(value)).is_relative_to(folder.absolute())  # noqa: PTH100 (links may lead elsewhere)


def _targets_of_the_tree() -> set[str]:
    """Returns every `_target_` in the config tree, and in the config folders given on the command line."""
    sources = [source.path for source in HydraConfig.get().runtime.config_sources if source.schema == "file"]
    files = [path for source in sources for path in Path(source).rglob("*.yaml")]
    contents = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in files)
    values = (pair for content in contents for pair in every_value(content))
    return {value for key, value in values if key.rpartition(".")[2] == "_target_"}
