"""Builds a model of the same architecture that is small enough to be tried in a second on a CPU.

Whether a way of computing log-probs is correct depends on the code of the model and on the options in its configuration
(kinds of layers, windows, positions), but not on its weights or sizes. A miniature has the same options, but small
sizes and random weights. Limits that rows of the run may exceed are lowered to `LIMIT` tokens, so that short rows
exceed them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel

from dapo_lightning.forward.layout import attention_of
from dapo_lightning.policy.limits import LENGTH_DEPENDENT, is_limit

LIMIT = 4  # tokens, or blocks of tokens
_OUT_OF_REACH = 128  # tokens; rows of a trial have fewer
_MAX_LAYERS = 12
_WIDTH, _HEADS, _HEAD, _RANGE = 64, 4, 16, 0.2

_LAYERS = r"num_hidden_layers|n_layers?|num_layers|decoder_layers|num_decoder_layers|num_blocks|num_layers_per_stack"
_PERIODS = r".*(_period|_interval|_pattern|_every_n_layers|_step|group_size|first_k_dense_replace|num_dense_layers)"
_QUERY_HEADS = r"(swa_)?num_attention_heads|n_heads?|num_heads|(num_)?(decoder_)?attention_heads"
_KEY_HEADS = r"(swa_)?num_key_value_heads|num_kv_heads|kv_n_heads|num_query_groups"
_SIZES = {  # the first match is used; layers check that products of sizes agree
    r".*vocab_size.*": 128,
    r"attention_hidden_size|mamba_d_ssm": 2 * _WIDTH,
    r"attention_head_dim": 2 * _HEAD,
    r"qk_rope_head_dim|rotary_dim": _HEAD // 2,
    r"qk_head_dim": 3 * _HEAD // 2,
    r".*_rank|hc_lowrank|d_rel|router_hidden_size|hidden_size_per_layer_input|ple_embed_dim": 16,
    r"hidden_size|d_model|n_embd|embedding_dim|emb_dim|lru_width|word_embed_proj_dim|embedding_size": _WIDTH,
    r".*(head_dim|d_head|headdim|dim_head|head_size|kv_channels|query_pre_attn_scalar)": _HEAD,
    r"mamba_(n|num)_heads|n_mamba_heads": 2 * _HEADS,
    r"linear_num_heads|linear_num_key_heads|linear_num_value_heads": _HEADS,
    r".*(intermediate_size.*|ffn_dim|ffn_hidden_size|dim_ff|dff|d_inner|feed_forward_size)": 32,
    r"(ssm_)?state_size|mamba_d_state": 16,
}
_COUNTS = {
    r"(num|n)_(routed_|local_)?experts|moe_num_experts|zero_expert_num": 4,
    r"num_experts_per_tok(en)?|moe_topk|moe_k": 2,
    r"n_group|num_expert_group|topk_group": 1,
    r"(mamba_)?chunk_size|block_size": 4,
    r"index_n_heads": 32,  # with few heads, all scores of a token may be 0, and ties are broken arbitrarily
    r"n_groups|mamba_n_?groups|o_groups": 2,
    r".*token_id": 3,
}


def miniature(model: PreTrainedModel, reach: int | None) -> PreTrainedModel:
    """Returns a small text model of the same class and options in eval mode, with random float32 weights on the CPU.

    Args:
        reach: the maximum number of tokens in a row; larger limits have no effect. None: unlimited.
    """
    config = model.config.get_text_config()
    kind = type(model) if config is model.config else MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    attention = attention_of(model) if attention_of(model) in ("sdpa", "eager") else "sdpa"  # others need a GPU
    return build(kind, small_config(config, reach), attention)


def build(kind: type[PreTrainedModel], config: PreTrainedConfig, attention: str | None) -> PreTrainedModel:
    """Returns a model with random weights. Noise is added even to weights that are initialised to constants, so that
    every mistake changes the log-probs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind._from_config(config, attn_implementation=attention, dtype=torch.float32).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.1 if weight.dim() < 2 else 0.15)
    return model


def small_config(config: PreTrainedConfig, reach: int | None) -> PreTrainedConfig:
    """Returns the configuration of the miniature."""
    values = {name: value for name, value in config.to_dict().items() if name not in ("model_type", "dtype")}
    return type(config)(**_shrunk(values, _num_layers(values), reach))


def _shrunk(values: Mapping[str, Any], layers: tuple[int, int], reach: int | None) -> dict[str, Any]:
    before, after = layers
    heads = next((value for name, value in values.items() if re.fullmatch(_QUERY_HEADS, str(name))), 0)

    def shrunk(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            kept = {
                key: one for key, one in value.items() if not str(key).isdigit() or int(key) < after
            }  # entries of layers
            static = {"rope_type": "default"} if value.get("rope_type") in LENGTH_DEPENDENT else {}
            return _shrunk(kept, layers, reach) | static
        if isinstance(value, list | tuple):
            return [shrunk(name, one) for one in (value[:after] if len(value) == before else value)]
        if isinstance(value, float) and name in ("initializer_range", "init_std"):
            return _RANGE
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            return value
        if re.fullmatch(_LAYERS, name):
            return min(value, after)
        if name == "num_kv_shared_layers":
            return min(value, after // 2)
        if is_limit(name):
            return min(value, LIMIT) if reach is None or value < reach else max(value, _OUT_OF_REACH)
        if re.fullmatch(_QUERY_HEADS, name):
            return 2 * _HEADS if name == "num_heads" and "state_size" in values else _HEADS  # Mamba 2
        if re.fullmatch(_KEY_HEADS, name):
            return _HEADS if value == heads else min(value, _HEADS // 2)
        if name == "head_dim" and value == values.get("qk_rope_head_dim"):
            return _HEAD // 2
        if size := _match(_SIZES, name):
            return size
        return min(value, _match(_COUNTS, name) or value)

    return {name: shrunk(str(name), value) for name, value in values.items()}


def _match(sizes: Mapping[str, int], name: str) -> int | None:
    return next((size for pattern, size in sizes.items() if re.fullmatch(pattern, name)), None)


def _num_layers(values: Mapping[str, Any]) -> tuple[int, int]:
    """Returns the number of layers of the model, and the smallest number that contains every kind of layer."""
    before = next((values[name] for name in values if re.fullmatch(_LAYERS, name)), 0)
    lists = [v for v in values.values() if isinstance(v, list) and 0 < len(v) == before and isinstance(v[0], str | int)]
    kinds = list(zip(*lists, strict=True)) if lists else []
    after = max([2, *(kinds.index(kind) + 1 for kind in set(kinds) if kinds.index(kind) < _MAX_LAYERS)])
    periods = [v for name, v in values.items() if re.fullmatch(_PERIODS, name) and type(v) is int]
    patterns = [
        len(v) for v in values.values() if isinstance(v, list) and 0 < len(v) < before and isinstance(v[0], str)
    ]
    after = max([after, *(p + 1 for p in periods if p < _MAX_LAYERS), *(p for p in patterns if p < _MAX_LAYERS)])
    return before, min(before, 2 * after if values.get("num_kv_shared_layers") else after)
