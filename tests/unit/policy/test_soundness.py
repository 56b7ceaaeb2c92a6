"""Model folders whose files do not belong together are refused with a sentence that names the file and the remedy."""

import json
import re
import shutil

import pytest
import torch
import zoo
from safetensors.torch import load_file, save_file

from dapo_lightning.policy import PolicyError
from dapo_lightning.policy.hub import HubPolicy


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound") / "model"
    zoo.specimen("llama", folder)
    return folder


@pytest.fixture
def load(sound, tmp_path):
    def load(weights=lambda tensors: None, **config):
        folder = shutil.copytree(sound, tmp_path / "model")
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        tensors = load_file(folder / "model.safetensors")
        weights(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        source = HubPolicy(str(folder), chat=False)
        return source.load(source.codec(), None, folder, reach=30)

    return load


UP, NORM = "model.layers.0.mlp.up_proj.weight", "model.norm.weight"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"num_hidden_layers": 0}, "config.json has num_hidden_layers=0, which must be at least 1"),
        ({"num_hidden_layers": -1}, "config.json has num_hidden_layers=-1, which must be at least 1"),
        ({"vocab_size": 0}, "config.json has vocab_size=0"),
        ({"num_hidden_layers": 1}, "more layers than its config.json: 9 tensors (for example, model.layers.1."),
        ({"intermediate_size": 24}, "the shapes of its weights are not those of its config.json"),
        ({"hidden_act": "nope"}, "cannot be loaded ('nope' is unknown or missing)"),
        (
            {"quantization_config": {"quant_method": "nope"}},
            "quantization_config.quant_method=nope, which transformers",
        ),
        ({"quantization_config": {"bits": 4}}, "quantization_config.quant_method=None, which transformers"),
    ],
)
def test_configurations_of_other_weights(load, config, says):
    with pytest.raises(PolicyError, match=rf"^policy\.name=\S*: .*{re.escape(says)}"):
        load(**config)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (lambda w: w.update({UP: w[UP].to(torch.int8)}), "model.safetensors stores weights as I8"),
        (lambda w: w.update({UP: w[UP].to(torch.float8_e4m3fn)}), "model.safetensors stores weights as F8_E4M3"),
        (lambda w: w.update({NORM: torch.ones(7)}), "the shapes of its weights are not those of its config.json"),
        (lambda w: w.pop(NORM), "1 tensors are missing (for example, model.norm.weight)"),
    ],
)
def test_weights_of_another_model(load, weights, says):
    with pytest.raises(PolicyError, match=re.escape(says)):
        load(weights)


def test_weights_that_are_not_used_are_told(load, caplog):
    load(lambda tensors: tensors.update({"vision.x.weight": torch.ones(3)}))
    assert "contain 1 tensors that LlamaForCausalLM does not have (for example, vision.x.weight)" in caplog.text


def test_layers_of_another_kind_are_not_too_many_layers(load, caplog):
    """Models that predict a second token have its layer behind the others."""
    second = UP.replace("0", "2")
    load(lambda tensors: tensors.update({second: tensors[UP].clone(), "model.layers.2.eh_proj.weight": torch.ones(3)}))
    assert "contain 2 tensors that LlamaForCausalLM does not have" in caplog.text


def test_weights_whose_quantization_transformers_undoes_are_read(load):
    def quantize(tensors):
        for name in [name for name in tensors if "proj" in name]:
            tensors[name] = tensors[name].to(torch.float8_e4m3fn)
            tensors[name.replace(".weight", ".weight_scale_inv")] = torch.ones(1, 1)

    method = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    assert load(quantize, quantization_config=method).model.model.layers[0].mlp.up_proj.weight.dtype.is_floating_point


def test_files_that_transformers_does_not_read_are_ignored(load, sound):
    unread = sound / "consolidated.safetensors"
    unread.write_text("version https://git-lfs.github.com/spec/v1")
    assert load()
    unread.unlink()
