"""The plain keys of conf/config.yaml with their types and bounds, and the check of values against types."""

from __future__ import annotations

import collections.abc
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from dapo_lightning.run.errors import ConfigError
from dapo_lightning.utils.overrides import every_value


@dataclass(frozen=True)
class Bound:
    """Bounds of a number; `is_reached` says whether the number may equal the minimum."""

    minimum: float
    is_reached: bool = True
    hint: str = ""
    maximum: float = math.inf

    def holds(self, value: float) -> bool:
        return (value > self.minimum or (self.is_reached and value == self.minimum)) and value <= self.maximum

    def __str__(self) -> str:
        most = "" if self.maximum == math.inf else f" and at most {self.maximum}"
        return f"{'at least' if self.is_reached else 'above'} {self.minimum}{most}{self.hint}"


Count = Annotated[int, Bound(1)]
CountOrNull = Annotated[int | None, Bound(1)]
OF_TRAINING = " (a group sampled greedily has no variance to learn from; evaluation.temperature may be 0)"
PositiveOrNull = Annotated[float | None, Bound(0, is_reached=False)]


@dataclass(frozen=True)
class Evaluation:
    """See `evaluation` in conf/config.yaml."""

    every: Count
    num_prompts: CountOrNull
    num_completions: Count
    max_new_tokens: Count
    temperature: Annotated[float, Bound(0)]
    top_p: float
    top_k: CountOrNull
    min_p: float
    sets: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """See `plan` in conf/config.yaml. The plan itself checks all other keys."""

    accelerator: str
    num_accelerators: CountOrNull
    mean_tokens: PositiveOrNull
    prompt_tokens: CountOrNull
    keep_rate: PositiveOrNull


@dataclass(frozen=True)
class Doctor:
    """See `doctor` in conf/config.yaml."""

    num_prompts: Count


@dataclass(frozen=True)
class Settings:
    """The plain keys. `dapo_lightning.types.Generation` checks the bounds of top_p and min_p."""

    mode: Literal["train", "evaluate", "plan", "doctor"]
    num_steps: Count
    seed: Annotated[int, Bound(0, maximum=2**32 - 1)]  # NumPy accepts no larger ones
    num_prompts_per_step: Count
    num_completions_per_prompt: Count
    num_gradient_steps: Count
    num_epochs: Count
    num_warmup_steps: Annotated[int, Bound(0)]
    max_prompt_tokens: CountOrNull
    max_new_tokens: Count
    temperature: Annotated[float, Bound(0, is_reached=False, hint=OF_TRAINING)]
    top_p: float
    top_k: CountOrNull
    min_p: float
    stop: list[str]
    max_gradient_norm: Annotated[float, Bound(0, is_reached=False, hint=" (inf: no clipping)")]
    micro_batch_tokens: Count
    evaluation: Evaluation
    plan: Plan
    doctor: Doctor
    checkpoint: str | list[str] | None
    resume: str | None
    changes: bool
    profile: bool
    run_folder: str


PLAIN = tuple(field.name for field in fields(Settings))


def check_plain(given: Mapping[str, Any], schema: type = Settings, path: str = "") -> None:
    """Raises a ConfigError if a plain key does not have the type or violates the bound that the schema states."""
    hints = get_type_hints(schema, include_extras=True)
    if schema in (Evaluation, Doctor) and (unknown := sorted(given.keys() - hints.keys())):
        raise ConfigError(f"{path}{unknown[0]}: there is no such key, only {', '.join(hints)}.")
    for key, hint in hints.items():
        name, value = f"{path}{key}", given.get(key)
        if is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{name}={value}: set its keys one by one, {name}.<key>=<value>.")
            check_plain(value, hint, f"{name}.")  # type: ignore[arg-type]
        else:
            check_value(name, value, *_expected(hint))


def check_key(key: str, value: Any) -> None:
    """Checks the value of one plain key, such as `evaluation.every`, as `check_plain` does; ignores other keys."""
    hint: Any = Settings
    for part in key.split("."):
        hint = get_type_hints(hint, include_extras=True).get(part) if is_dataclass(hint) else None
    if hint is not None and not is_dataclass(hint):
        check_value(key, value, *_expected(hint))


def _expected(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is Annotated else (hint,)


INFINITE = (
    "max_gradient_norm",
    "module.max_gradient_norm",
    "clip.upper",
    "clip.cap",
    "correction.cap",
    "rejection.upper",
)
"""Numbers for which inf has a meaning: no limit."""


def check_finite(config: Mapping[str, Any]) -> None:
    """Raises a ConfigError if a number of a configuration is NaN, or infinite where that has no meaning."""
    for key, value in every_value(config):
        if isinstance(value, float) and not math.isfinite(value) and (math.isnan(value) or key not in INFINITE):
            raise ConfigError(f"{key}={value}: must be a finite number.")


def check_value(name: str, value: Any, expected: Any, bound: Bound | None = None) -> None:
    """Raises a ConfigError if a value does not have the expected type or violates the bound."""
    has_type = fits(value, expected)
    if has_type and (bound is None or value is None or bound.holds(value)):
        return
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    if get_origin(expected) is Literal:
        raise ConfigError(f"{name}={shown}: choose {_listed(get_args(expected))}.")
    is_unquoted = not has_type and type(value) in (int, float) and fits("", expected)
    hint = f" To give a number as text, quote it twice: {name}='\"{value}\"'." if is_unquoted else ""
    raise ConfigError(f"{name}={shown}: must be {describe(expected)}{f', {bound}' if bound else ''}.{hint}")


def fits(value: Any, expected: Any) -> bool:
    """Whether a value from a YAML file fits a type annotation. Mappings with a `_target_` stand for objects."""
    origin, arguments = get_origin(expected), get_args(expected)
    if isinstance(value, Mapping) and "_target_" in value:
        return expected not in (int, float, bool, str, None, type(None))  # of an unknown class
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if expected in (None, type(None)):
        return value is None
    if expected is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if expected in (int, bool, str):
        return type(value) is expected
    if origin is tuple and arguments and Ellipsis not in arguments:
        return isinstance(value, list) and len(value) == len(arguments) and all(map(fits, value, arguments))
    if origin in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        return isinstance(value, list) and all(fits(item, arguments[0]) for item in value)
    if (origin or expected) in (dict, collections.abc.Mapping):
        return isinstance(value, Mapping)
    if isinstance(expected, type):  # a class, whose objects have a `_target_`
        return expected in (object, Any)
    return origin is not collections.abc.Callable  # other annotations are not checked


def describe(expected: Any) -> str:
    """Describes in words which values fit a type."""
    origin, arguments = get_origin(expected), get_args(expected)
    if origin in (Union, types.UnionType):
        choices = [choice for one in arguments if get_origin(one) is Literal for choice in get_args(one)]
        others = [describe(one) for one in arguments if get_origin(one) is not Literal]
        return " or ".join(dict.fromkeys([f"one of {_listed(choices)}", *others] if choices else others))
    if origin is Literal:
        return f"one of {_listed(arguments)}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    if expected in words:
        return words[expected]
    if origin in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        return "a list [a, b]"
    if (origin or expected) in (dict, collections.abc.Mapping):
        return "a mapping {key: value}"
    return "an object with a _target_"


def _listed(choices: Iterable[Any]) -> str:
    *first, last = dict.fromkeys(map(str, choices))
    return f"{', '.join(first)} or {last}" if first else last
