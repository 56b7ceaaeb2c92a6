"""Checks the options of every object in a configuration against the signature of its `_target_`.

A new option needs no entry anywhere: the arguments of its class, and their annotations, are its schema.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from pkgutil import resolve_name
from typing import Any, get_type_hints

from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.options import groups, nearest
from dapo_lightning.run.schema import check_value

_REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_OF_HYDRA = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")


def check_numbers(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuses words where the option's own file has numbers or true and false. Imports nothing, so it answers at once.

    Args:
        config: resolved.
        defaults: the same options as their files have them.
    """
    for path, node in targets(config):
        for key, value in node.items():
            default = _select(defaults, f"{path}.{key}")
            expected = bool if isinstance(default, bool) else float if isinstance(default, int | float) else None
            if expected and value is not None and not (path == "trainer" and key == "devices"):  # 1 or "auto"
                check_value(f"{path}.{key}", value, expected)


def check_targets(config: Mapping[str, Any]) -> None:
    """Checks names and types of all arguments. Imports the classes.

    Raises:
        ConfigError: naming the key, its value, and what is expected.
    """
    for path, node in targets(config):
        try:
            target = resolve_name(node["_target_"])
        except ImportError:  # Hydra says which part of the name is wrong, or which package is missing
            continue
        except (AttributeError, ValueError):
            raise ConfigError(f"{path}._target_={node['_target_']}: there is no such class or function.") from None
        _check_arguments(path, node, target)


def targets(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the mappings that have a `_target_`, with their paths."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            if "_target_" in value:
                yield f"{path}{key}", value
            yield from targets(value, f"{path}{key}.")


def check_entries(config: Mapping[str, Any]) -> None:
    """Checks groups that hold several objects by name, such as callbacks: each is an object, or null.

    Raises:
        ConfigError: naming the key and the remedy.
    """
    for group in groups():
        node = config.get(group)
        if isinstance(node, Mapping) and "_target_" not in node:
            for name, value in node.items():
                if value is not None and not (isinstance(value, Mapping) and "_target_" in value):
                    remedy = f"{group}.{name}=null switches it off"
                    raise ConfigError(f"{group}.{name}={value}: must be an object with a _target_; {remedy}.")


def _check_arguments(path: str, node: Mapping[str, Any], target: Callable[..., Any]) -> None:
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # of a class in C
        return
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    hints = _hints(target)
    for key, value in node.items():
        if key in _OF_HYDRA:
            continue
        if key not in parameters:
            if not takes_all:
                name, near = node["_target_"].rpartition(".")[2], nearest(key, list(parameters))
                others = f", only {', '.join(parameters)}" if len(parameters) < 12 else ""
                raise ConfigError(f"{path}.{key}={value}: {name} has no such argument{others}.{near}")
        elif key in hints:
            check_value(f"{path}.{key}", value, hints[key])
    required = [name for name, one in parameters.items() if one.default is one.empty and one.kind not in _REST]
    missing = [name for name in required if name not in node]
    if missing and not node.get("_partial_"):
        raise ConfigError(f"{path}.{missing[0]} has no value: add {path}.{missing[0]}=<value>.")


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of the arguments; none if they name what is imported for type checkers alone."""
    try:
        if inspect.isclass(target) and hasattr(target, "__dataclass_fields__"):
            return get_type_hints(target)
        return get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError, AttributeError):
        return {}


def _select(config: Any, path: str) -> Any:
    for part in path.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config
