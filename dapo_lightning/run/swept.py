"""Checks the values of a sweep before its first job starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pkgutil import resolve_name
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from dapo_lightning.run.errors import ConfigError
from dapo_lightning.run.options import groups
from dapo_lightning.run.schema import check_finite, check_key, check_value
from dapo_lightning.run.targets import check_numbers, hints


def check_search(overrides: Sequence[Override]) -> None:
    """Raises a ConfigError if a search has no values to search."""
    is_search = any(one.key_or_group == "hydra/sweeper" and one.value() == "search" for one in overrides)
    if is_search and not any(one.is_sweep_override() for one in overrides):
        raise ConfigError("hydra/sweeper=search: add values to search, as in 'clip.upper=interval(1.05,2.0)'.")


def check_swept(overrides: Sequence[Override], base: DictConfig) -> None:
    """Raises a ConfigError if a value has the wrong type, or is out of bounds. Each job checks what depends on several
    values.

    Args:
        base: the configuration of the chosen options (the first ones, if options are swept).
    """
    targets = {one.key_or_group.rpartition(".")[0] for one in overrides if one.key_or_group.endswith("._target_")}
    swept = {one.key_or_group for one in overrides if one.key_or_group in groups() and one.is_sweep_override()}
    for override in overrides:
        key = override.key_or_group
        if key in groups() or key.partition(".")[0] in (*swept, "hydra") or key.rpartition(".")[0] in targets:
            continue
        for value in _values(override):
            _check(key, value, base)


def _values(override: Override) -> Iterator[Any]:
    """Yields the values, except those that refer to other keys."""
    is_sweep = override.is_sweep_override()
    if override.is_delete() or (is_sweep and not override.is_discrete_sweep()):
        return
    parser = OverridesParser.create()
    single = (
        (parser.parse_override(f"x={text}") for text in override.sweep_string_iterator()) if is_sweep else [override]
    )
    for one in single:
        if "${" not in str(one.value()):
            yield one.value()


def _check(key: str, value: Any, base: DictConfig) -> None:
    check_finite({key: value})
    check_key(key, value)
    path, _, name = key.rpartition(".")
    node = OmegaConf.select(base, path, throw_on_resolution_failure=False) if path else None
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    if not isinstance(target, str):
        return
    nested: dict[str, Any] = {"_target_": target, name: value}
    for part in reversed(path.split(".")):
        nested = {part: nested}
    check_numbers(nested, base)
    try:
        expected = hints(resolve_name(target))
    except Exception:  # the job says why the class cannot be imported
        return
    if name in expected:
        check_value(key, value, expected[name])
