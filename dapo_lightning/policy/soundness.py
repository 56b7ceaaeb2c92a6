"""Faults of model folders that transformers does not treat as errors: it would load another model than was saved."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.quantizers import AutoHfQuantizer

_POSITIVE = ("num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads")
_FLOATS = ("F64", "F32", "F16", "BF16")


def fault_of_config(config: PreTrainedConfig) -> str | None:
    """Returns what is wrong with a configuration and how to correct it; None if nothing is."""
    text = config.get_text_config()
    for key in _POSITIVE:
        value = getattr(text, key, None)
        if isinstance(value, int) and value < 1:
            return f"its config.json has {key}={value}, which must be at least 1. Correct it there."
    quantization = getattr(config, "quantization_config", None)
    if isinstance(quantization, dict) and not _is_known(quantization):
        return (
            f"its config.json has quantization_config.quant_method={quantization.get('quant_method')}, which "
            "transformers does not know. Correct it there, or use the unquantized model."
        )
    return None


def _is_known(quantization: Mapping[str, Any]) -> bool:
    try:
        return AutoHfQuantizer.supports_quant_method(quantization)
    except ValueError:  # no method at all
        return False


def fault_of_weights(
    model: PreTrainedModel, missing: Collection[str], unexpected: Collection[str], unquantized: Path | None
) -> str | None:
    """Returns what is wrong with the weights from which a model was loaded, and how to correct it; None if nothing is.

    Args:
        missing: tensors of the model that the files do not contain.
        unexpected: tensors in the files that the model does not have.
        unquantized: the folder of the files, if config.json has no quantization_config; None for models that have one,
            and for an id on the hub, whose files are not examined.
    """
    if lacking := sorted(missing):
        return (
            f"its weights are incomplete: {len(lacking)} tensors are missing (for example, {lacking[0]}) and would be "
            "random. Use a complete causal language model."
        )
    if surplus := _surplus_layers(unexpected, model.state_dict()):
        return (
            f"its weights have more layers than its config.json: {len(surplus)} tensors (for example, {surplus[0]}) "
            "would be ignored. Correct config.json (num_hidden_layers, for example), or remove these tensors."
        )
    if unquantized is None:
        return None
    for file in [*unquantized.glob("model.safetensors"), *sorted(unquantized.glob("model-*.safetensors"))]:
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                kind = tensors.get_slice(name).get_dtype()
                if name.endswith(".weight") and kind not in _FLOATS:
                    return (
                        f"{file.name} stores weights as {kind} (for example, {name}), which only quantized models do, "
                        "and config.json has no quantization_config. Use the unquantized model."
                    )
    return None


def _surplus_layers(unexpected: Collection[str], expected: Collection[str]) -> list[str]:
    """Returns the tensors of layers that the model lacks and that are like its own. Layers that also have other
    tensors, such as those that predict a second token, are of another kind."""
    known = {_any_number(name) for name in expected}
    others = {_layer(name) for name in unexpected if _any_number(name) not in known} | {*map(_layer, expected)}
    return sorted(name for name in unexpected if _any_number(name) in known and _layer(name) not in others)


def _layer(name: str) -> str:
    """Returns the beginning of a name up to its first number."""
    found = re.match(r".*?\.\d+(?=\.|$)", name)
    return found[0] if found else name


def _any_number(name: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)
