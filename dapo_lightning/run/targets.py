"""Checks the options of every object in a configuration against the signature of its `_target_`.

A new option needs no entry anywhere: the arguments of its class, and their annotations, are its schema.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from importlib import import_module
from pkgutil import resolve_name
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.options import groups, nearest
from dapo_lightning.run.schema import PLAIN, check_value
from dapo_lightning.utils.extras import extra_with

_REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
OF_THE_RUN = ("activation_checkpointing", "offload_optimizer")  # keys of the trainer that Lightning does not know
_OF_HYDRA = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")


def check_numbers(config: Mapping[str, Any], defaults: DictConfig) -> None:
    """Raises a ConfigError if an option has text where its file has a number, true or false, or a negative number (0,
    for whole numbers) where its file has a positive one. Imports no classes.

    Args:
        config: the resolved settings.
        defaults: the configuration of the same options without the values of the command.
    """
    for path, node in targets(config):
        for key, value in node.items():
            default = OmegaConf.select(defaults, f"{path}.{key}", throw_on_resolution_failure=False)
            expected = bool if isinstance(default, bool) else float if isinstance(default, int | float) else None
            if expected and value is not None and not (path == "trainer" and key == "devices"):  # 1 or "auto"
                check_value(f"{path}.{key}", value, expected)
                if expected is float and isinstance(value, int | float) and key not in PLAIN:  # has a bound already
                    _check_sign(f"{path}.{key}", value, default)


def _check_sign(key: str, value: float, default: float) -> None:
    """Scores of rewards may have any sign."""
    is_count = isinstance(default, int) and isinstance(value, int) and default > 0
    is_score = key.startswith("reward") and not is_count and not key.endswith(".seconds")
    least = 1 if is_count else 0
    if default >= 0 and value < least and not is_score:
        raise ConfigError(f"{key}={value}: must be at least {least}.")


def check_targets(config: Mapping[str, Any]) -> None:
    """Raises a ConfigError if an argument of a `_target_` is unknown, missing or of the wrong type. Imports the
    classes."""
    for path, node in targets(config):
        _check_module(path, node["_target_"])
        try:
            target = resolve_name(node["_target_"])
        except (ImportError, AttributeError, ValueError) as error:
            reason = _why_not_imported(node["_target_"].rpartition(".")[0])
            if reason is None and isinstance(error, ImportError):  # Hydra says which part of the name is wrong
                continue
            reason = reason or "there is no such class or function"
            raise ConfigError(f"{path}._target_={node['_target_']}: {reason}.") from None
        _check_arguments(path, node, target)


def _check_module(path: str, target: str) -> None:
    """Raises a ConfigError if the module of a class needs a package that an extra installs, or raises an exception."""
    module = target.rpartition(".")[0]
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if extra := extra_with(error.name or ""):
            raise ConfigError(f'the package {error.name} is missing: pip install "dapo-lightning[{extra}]".') from None
    except (ImportError, ValueError):  # the target is inside a class, or no name
        pass
    except Exception as error:  # a SyntaxError, for example
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{path}._target_={target}: {module} cannot be imported ({reason}).") from error


def _why_not_imported(module: str) -> str | None:
    """Returns why a module cannot be imported, although it exists; None if it can be, or does not exist."""
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        return None if f"{module}.".startswith(f"{error.name}.") else f"{module} cannot be imported ({error})"
    except (ImportError, ValueError) as error:
        return f"{module} cannot be imported ({error})"
    return None


def targets(config: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the path and the content of each mapping that has a `_target_`."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            if "_target_" in value:
                yield f"{path}{key}", value
            yield from targets(value, f"{path}{key}.")


def check_entries(config: Mapping[str, Any]) -> None:
    """Raises a ConfigError if a group of named objects, such as callbacks, holds anything but objects and null."""
    for group in groups():
        node = config.get(group)
        if isinstance(node, Mapping) and "_target_" not in node:
            for name, value in node.items():
                if value is not None and not (isinstance(value, Mapping) and "_target_" in value):
                    raise ConfigError(
                        f"{group}.{name}={value}: must be an object with a _target_; {group}.{name}=null switches it "
                        "off."
                    )


def _check_arguments(path: str, node: Mapping[str, Any], target: Callable[..., Any]) -> None:
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # a class written in C
        return
    rest = next((name for name, one in parameters.items() if one.kind is inspect.Parameter.VAR_KEYWORD), None)
    expected = hints(target)
    for key, value in node.items():
        if key in _OF_HYDRA or (path == "trainer" and key in OF_THE_RUN):
            continue
        if key not in parameters or key == rest:
            if rest is None:
                name, near = node["_target_"].rpartition(".")[2], nearest(key, list(parameters))
                others = f", only {', '.join(parameters)}" if len(parameters) < 12 else ""
                raise ConfigError(f"{path}.{key}={value}: {name} has no such argument{others}.{near}")
            check_value(f"{path}.{key}", value, expected.get(rest, object))
        elif key in expected:
            check_value(f"{path}.{key}", value, expected[key])
    required = [name for name, one in parameters.items() if one.default is one.empty and one.kind not in _REST]
    missing = [name for name in required if name not in node]
    if missing and not node.get("_partial_"):
        raise ConfigError(f"{path}.{missing[0]} has no value: add {path}.{missing[0]}=<value>.")


def hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Returns the annotations of the arguments; none if they refer to names that only type checkers import."""
    try:
        is_plain_class = inspect.isclass(target) and not is_dataclass(target)
        return get_type_hints(target.__init__ if is_plain_class else target)
    except (NameError, TypeError, AttributeError):
        return {}
