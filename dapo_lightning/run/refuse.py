"""Refuses unknown keys and options with the nearest known ones, before Hydra composes anything with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, OverrideType, Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.options import (
    CONF,
    RENAMED_KEYS,
    chosen_options,
    groups,
    in_list,
    is_global,
    nearest,
    options,
    options_with,
    takes_list,
)
from dapo_lightning.run.schema import PLAIN
from dapo_lightning.utils.overrides import leaves

PLUGINS = {"joblib": "study", "dapo_slurm": "slurm", "optuna": "optuna"}
"""The extra of this package that installs an option of Hydra."""


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parses overrides as Hydra does; if an override cannot be parsed, raises a ConfigError that says what to quote."""
    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else None  # knows the options that glob(...) matches
    parser, found = OverridesParser.create(), []
    for text in overrides:
        if text.endswith("=") and text.count("=") == 1:
            raise ConfigError(f"{text} has no value: add one, or leave it out. (An empty text is \"{text}''\".)")
        try:
            override = parser.parse_override(text)
            override.config_loader = loader
            found.append(override)
        except HydraException:
            key, equals, value = text.partition("=")
            remedy = f"\"{key}='{value}'\"" if equals else f"{key}=<value>"
            reason = "some characters have a special meaning for Hydra; quote it twice" if equals else "it has no value"
            raise ConfigError(f"{text}: cannot be read, because {reason}: {remedy}.") from None
    return found


def launcher_as_written(arguments: Sequence[str]) -> list[str]:
    """Returns arguments in which values of `hydra.launcher.*` are quoted if Hydra could not parse them, or would
    interpret their commas as a sweep, which is impossible for a launcher: `partition=a,b`, `exclude=node[1-4]`."""
    return [_quoted(argument) if re.match(r"\+*hydra\.launcher\.", argument) else argument for argument in arguments]


def _quoted(argument: str) -> str:
    key, equals, value = argument.partition("=")
    try:
        is_readable = not OverridesParser.create().parse_override(argument).is_sweep_override()
    except HydraException:
        is_readable = not equals
    return argument if is_readable else f"{key}={QuotedString(text=value, quote=Quote.single).with_quotes()}"


def check_overrides(overrides: Sequence[str], is_sweep: bool) -> DictConfig:
    """Raises a ConfigError with the nearest known names if a key or an option does not exist. Returns the configuration
    of the chosen options without the values of the command."""
    parsed = parse(overrides)
    for override in parsed:
        if override.is_sweep_override() and not is_sweep:
            raise ConfigError(
                f"{override.input_line}: several values are a sweep: add -m. (Quote a single value with commas twice.)"
            )
        if override.key_or_group == "hydra/sweeper" and not is_sweep:
            raise ConfigError(f"{override.input_line} is for sweeps: add -m, or leave it out.")
        if override.key_or_group.startswith("hydra.sweeper.params"):
            raise ConfigError(
                f"{override.input_line}: write the values to search as overrides, so that their keys are checked and "
                "name the folders of the jobs, as in 'clip.upper=interval(1.05,2.0)' or seed=0,1,2."
            )
        if override.key_or_group == "run_folder" and is_sweep:
            raise ConfigError("run_folder is one folder, but each job of a sweep needs its own: use hydra.sweep.dir=.")
        if isinstance(override.value(), Glob) and override.key_or_group not in groups():
            raise ConfigError(f"{override.input_line}: glob(...) is for groups of options: list the values, as in a,b.")
    chosen = [override for override in parsed if override.key_or_group in groups() and override.package is None]
    for override in chosen:
        _check_option(override)
    base = _base(parsed)
    swept = {override.key_or_group for override in chosen if override.is_sweep_override()}
    for override in parsed:
        if override not in chosen and not _is_choice(override) and override.key_or_group.split(".")[0] not in swept:
            _check_key(override, OmegaConf.to_container(base, resolve=False), chosen_options(base.hydra))
    return base


def _base(parsed: Sequence[Override]) -> DictConfig:
    """Returns the configuration of the chosen options, without the values of the command."""
    selections = [text for one in parsed for text in _selection(one)]
    try:
        return compose("config", overrides=selections, return_hydra_config=True)
    except MissingConfigException as error:
        raise ConfigError(_missing(error)) from error
    except HydraException as error:
        raise ConfigError(str(error)) from error


def _is_choice(override: Override) -> bool:
    """Whether it chooses an option of Hydra, or one for another place."""
    return override.key_or_group.startswith("hydra/") or "@" in override.input_line.partition("=")[0]


def _selection(override: Override) -> Iterator[str]:
    """Yields an override that chooses an option, with the first value of a sweep in place of all."""
    key = override.input_line.partition("=")[0]
    if override.key_or_group in groups() or "@" in key or override.key_or_group.startswith("hydra/"):
        is_sweep = override.is_sweep_override()
        yield f"{key}={next(iter(override.sweep_string_iterator()))}" if is_sweep else override.input_line


def _check_option(override: Override) -> None:
    group = override.key_or_group
    given = list(override.sweep_string_iterator()) if override.is_sweep_override() else [override.value()]
    if not given:
        raise ConfigError(f"{override.input_line}: matches no option of {', '.join(options(group))}.")
    if not takes_list(group) and any(isinstance(one, list) or str(one).startswith("[") for one in given):
        raise ConfigError(f"{override.input_line}: choose one of {', '.join(options(group))}, not a list.")
    for name in (name for one in given for name in ([one] if one is None else in_list(one))):
        if override.is_delete() and is_global(group):
            continue
        if name is None or name == "null":
            remedy = f", or remove it with ~{group}" if is_global(group) else ""
            raise ConfigError(f"{group}=null: choose one of {', '.join(options(group))}{remedy}.")
        if not (CONF / group / f"{name}.yaml").is_file() and (takes_list(group) or not override.is_add()):
            raise ConfigError(
                f"{group}={name}: there is no such option; choose one of {', '.join(options(group))}."
                f"{nearest(str(name), options(group))}"
            )


def _check_key(override: Override, base: Any, choices: Mapping[str, str]) -> None:
    key, value = override.key_or_group, override.input_line.partition("=")[2]
    group, _, rest = key.partition(".")
    node, missing = base, ""
    parts = key.split(".")
    if group == "hydra" and len(parts) > 3:
        return  # some of these mappings take any name
    for part in parts:
        if isinstance(node, list):
            return
        if not isinstance(node, Mapping) or part not in node:
            missing = part
            break
        node = node[part]
    if not missing:
        if override.is_add():
            raise ConfigError(f"{override.input_line}: {key} exists already: write {key}={value}.")
        _check_value(override, node, base)
        return
    if key.startswith("evaluation.sets.") and override.type is OverrideType.CHANGE:
        raise ConfigError(f"{override.input_line}: keys of held-out sets are added: write +{override.input_line}.")
    is_in_group = group in base and rest
    if is_in_group and (override.is_add() or override.is_force_add()):
        return  # the signature of the class decides, once it is imported
    if is_in_group and group in choices:
        others = [f"{group}={option}" for option in options_with(group, rest) if option != choices[group]]
        if others:
            belongs = " and ".join(others[:3] + ["others"] * (len(others) > 3))
            sign = "+" if takes_list(group) else ""
            remedy = f"Add {sign}{others[0]}" if len(others) == 1 else "Choose one of them"
            raise ConfigError(
                f"{key} belongs to {belongs}; {group}={choices[group]} has no such key. {remedy}, or leave {key} out."
            )
        if node is None:
            raise ConfigError(f"{key}: {key.rpartition('.')[0]} is null here: set all of it at once, for instance "
                              f"{key.rpartition('.')[0]}='{{{missing}: {value}}}'.")  # fmt: skip
    if key in RENAMED_KEYS:
        raise ConfigError(f"{override.input_line}: {key} is now {RENAMED_KEYS[key]}.")
    raise _no_such_key(override, key, base)


def opened(overrides: Sequence[str]) -> list[str]:
    """Returns overrides, checked already, in which keys for mappings that are empty in conf/ and may have any keys are
    added, because Hydra accepts them only as additions: `++evaluation.sets={a: {}}` for `evaluation.sets={a: {}}`."""
    changes = [one for one in parse(overrides) if one.type is OverrideType.CHANGE]
    given = {one.input_line: one for one in changes if isinstance(_value(one), Mapping)}
    if not given:
        return list(overrides)
    base: Any = OmegaConf.to_container(_base(parse(overrides)), resolve=False)
    filled = {text for text, one in given.items() if _fills_empty(_value(one), _at(one.key_or_group, base))}
    return [f"++{text}" if text in filled else text for text in overrides]


def _check_value(override: Override, node: Any, base: Mapping[str, Any]) -> None:
    """Checks an override of a key that exists, and whose value is `node`."""
    text, key = override.input_line, override.key_or_group
    if override.is_delete():
        if key in PLAIN:
            raise ConfigError(f"{text}: every run needs {key}. Leave it out.")
        return
    value = _value(override)
    for kind, other, words in ((Mapping, list, "a mapping {key: value}"), (list, Mapping, "a list [a, b]")):
        if isinstance(node, kind) and isinstance(value, other):
            raise ConfigError(f"{text}: {key} is {words}.")
    if not override.is_force_add() and (new := next(_new_keys(value, node, key), None)) is not None:
        raise _no_such_key(override, new, base)


def _at(key: str, content: Any) -> Any:
    for part in key.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content


def _value(override: Override) -> Any:
    """Returns the value of an override, or the first one of a sweep; None for a range of numbers to search."""
    if not override.is_sweep_override():
        return override.value()
    return next(override.sweep_iterator(), None) if override.is_discrete_sweep() else None


def _fills_empty(value: Any, node: Any) -> bool:
    """Whether a value gives keys to an empty mapping in a node, or to the node itself."""
    if not (isinstance(value, Mapping) and isinstance(node, Mapping)):
        return False
    return bool(value and not node) or any(_fills_empty(value[key], node.get(key)) for key in value)


def _new_keys(value: Any, node: Any, path: str) -> Iterator[str]:
    """Yields the keys in a value that a node lacks, except in empty mappings, which may have any keys."""
    if isinstance(value, Mapping) and isinstance(node, Mapping) and node:
        for name, item in value.items():
            yield from _new_keys(item, node[name], f"{path}.{name}") if name in node else [f"{path}.{name}"]


def _no_such_key(override: Override, key: str, base: Mapping[str, Any]) -> ConfigError:
    is_hydras = key.partition(".")[0] == "hydra"
    siblings = {name: value for name, value in base.items() if (name == "hydra") == is_hydras}
    known = [name for name in leaves(siblings) if "_target_" not in name]
    return ConfigError(f"{override.input_line}: there is no key {key}.{nearest(key, [*known, *groups()])}")


def _missing(error: MissingConfigException) -> str:
    name = str(error.missing_cfg_file).rpartition("/")[2]
    if name in PLUGINS:
        package = f"dapo-lightning[{PLUGINS[name]}]"
        return f'{error.missing_cfg_file} needs a package that is missing: pip install "{package}".'
    return " ".join(str(error).split())
