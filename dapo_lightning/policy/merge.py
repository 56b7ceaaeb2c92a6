"""Merges adapters into the weights of their model."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from transformers import PreTrainedModel

from dapo_lightning.policy import PolicyError

if TYPE_CHECKING:
    from peft import PeftModel


def check_peft(what: str) -> None:
    """Raises a PolicyError with the remedy if peft is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise PolicyError(f'{what} needs the package peft: pip install "dapo-lightning[lora]"')


def merge(adapted: PeftModel) -> PreTrainedModel:
    """Returns the plain model, whose weights include the adapters. Changes `adapted`.

    If the head shares its weights with the embedding and one of them has an adapter, the head gets its own copy,
    because merging an adapter into one of them must not change the other.
    """
    model: Any = adapted.get_base_model()
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    inner, outer = _without_adapter(embedding), _without_adapter(head)
    if (inner, outer) != (embedding, head) and outer.weight is inner.weight:
        outer.weight = nn.Parameter(outer.weight.detach().clone(), requires_grad=False)
    merged: Any = adapted.merge_and_unload()
    if merged.get_output_embeddings().weight is not merged.get_input_embeddings().weight:
        merged.config.tie_word_embeddings = False  # otherwise saving and loading would tie them again
    return cast(PreTrainedModel, merged)


@contextmanager
def untied_if_adapted(model: PreTrainedModel) -> Iterator[None]:
    """Within the context, the configuration says that head and embedding differ, if an adapter makes them differ."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if (_without_adapter(embedding), _without_adapter(head)) == (embedding, head):
        yield
        return
    before = model.config.tie_word_embeddings
    model.config.tie_word_embeddings = False
    try:
        yield
    finally:
        model.config.tie_word_embeddings = before


def merged_from(folder: Path, model: PreTrainedModel) -> PreTrainedModel:
    """Returns the model with the adapters of a folder merged in. All weights are trainable.

    Raises:
        PolicyError: if peft is not installed.
    """
    check_peft(f"policy.name={folder}: a folder with adapters")
    import peft  # slow to import

    return merge(peft.PeftModel.from_pretrained(model, str(folder))).requires_grad_(True)


def _without_adapter(layer: Any) -> Any:
    return getattr(layer, "base_layer", layer)
