"""Writes a folder that transformers can load, one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils import GENERATION_CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.distributed.sharding import full_tensor

FILE_SIZE = "5GB"  # of a file of weights; the first rank holds one file in memory


def save_settings(model: PreTrainedModel, folder: Path) -> None:
    """Writes everything but the weights. The generation config is written as the model came with it, plus the end
    tokens; transformers refuses to save a changed one if, as in many published models, it has a temperature but does
    not sample."""
    if not model.can_generate():
        model.save_pretrained(folder, state_dict={})
        return
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        model.save_pretrained(folder, state_dict={})
    finally:
        model.generation_config = own
    save_generation_config(model, folder)


def save_generation_config(model: PreTrainedModel, folder: Path) -> None:
    """See `save_settings`."""
    model.generation_config.to_json_file(folder / GENERATION_CONFIG_NAME, keys_to_pop=["compile_config"])


def export(model: PreTrainedModel, weights: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    """Writes configuration and weights. If the weights are sharded, all ranks must call this together; the first rank
    gathers one file after the other and writes it."""
    named = revert_weight_conversion(model, dict(weights))  # names, and for some experts shapes, of the hub's files
    writes = Ranks.current().rank == 0
    if writes:
        save_settings(model, folder)
        (folder / SAFE_WEIGHTS_NAME).unlink(missing_ok=True)
    shapes = {name: torch.empty(weight.shape, dtype=weight.dtype, device="meta") for name, weight in named.items()}
    plan = split_torch_state_dict_into_shards(
        shapes, filename_pattern=SAFE_WEIGHTS_NAME.replace(".", "{suffix}."), max_shard_size=FILE_SIZE
    )
    for file, names in plan.filename_to_tensors.items():
        content = {}
        for name in names:
            whole = full_tensor(named.pop(name))  # a collective
            if writes:
                content[name] = whole.cpu().contiguous()
        if writes:
            save_file(content, folder / file, metadata={"format": "pt"})
    if writes and plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
