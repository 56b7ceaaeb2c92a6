"""Weights under the names of the hub's files."""

import pytest
import torch
from safetensors.torch import load_file
from small_models import SIZES
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers import Qwen3MoeConfig as Qwen3Config
from transformers import Qwen3MoeForCausalLM as Qwen3

from dapo_lightning.distributed.weights import plain_weights, saved_weights

MODELS = {
    "no experts": (LlamaForCausalLM, LlamaConfig, {}),
    "experts": (Qwen3, Qwen3Config, {"num_experts": 3, "moe_intermediate_size": 16}),
    "experts with other names": (MixtralForCausalLM, MixtralConfig, {"num_local_experts": 3}),
}


@pytest.mark.parametrize("kind", MODELS)
def test_names_and_values_are_those_that_transformers_saves(kind, tmp_path):
    model_class, config_class, options = MODELS[kind]
    model = model_class(config_class(**SIZES, **options))
    model.save_pretrained(tmp_path)
    expected, found = load_file(tmp_path / "model.safetensors"), dict(saved_weights(model, plain_weights(model)))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_weights_are_taken_layer_by_layer():
    """One layer, not the whole model, is held at a time; without experts, it is one weight."""
    for kind, most in (("no experts", 1), ("experts", 10)):
        model_class, config_class, options = MODELS[kind]
        model = model_class(config_class(**SIZES, **options))
        taken = 0

        def weights(model=model):
            nonlocal taken
            for weight in plain_weights(model):
                taken += 1
                yield weight

        next(saved_weights(model, weights()))
        assert taken <= 1 + most
