"""Folders as others leave them: adapters, code, pickles, incomplete weights."""

import json
import pickle
import shutil

import pytest
import torch
from conftest import tiny
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from dapo_lightning.forward.logprobs import completion_logps
from dapo_lightning.policy import PolicyError
from dapo_lightning.policy.hub import HubPolicy
from dapo_lightning.policy.lora import Lora
from dapo_lightning.policy.merge import addable_from
from dapo_lightning.policy.pretrained import Pretrained
from dapo_lightning.policy.value_model import value_model

TIED = {"lm_head": ["lm_head", "q_proj"], "embedding": ["embed_tokens", "q_proj"], "both": ["embed_tokens", "lm_head"]}


@pytest.fixture
def folder(tmp_path):
    tiny(seed=1).save(tmp_path / "model")
    return tmp_path / "model"


def load(folder, **options):
    source = HubPolicy(str(folder), chat=False, **options)
    return source.load(source.codec(), None, None)


def logps(model):
    rows = [torch.tensor([5, 6, 7]), torch.tensor([8, 9])]
    return completion_logps(model, [(3, 4, 5, 6), (7, 8)], rows, 1.0)[0].detach()


def test_adapters_have_the_same_values_if_their_model_is_read_into_shards_later(folder):
    source, found = HubPolicy(str(folder), chat=False, lora=Lora(rank=4)), []
    for sharded in (False, True):
        torch.manual_seed(0)
        found.append(source.load(source.codec(), None, None, sharded=sharded))
    whole, without_values = (dict(policy.model.named_parameters()) for policy in found)
    assert found[0].shards is None and found[1].shards is not None and set(whole) == set(without_values)
    for name, weight in without_values.items():
        assert weight.requires_grad == whole[name].requires_grad == (".lora_" in name)
        if ".lora_" in name:
            assert torch.equal(weight, whole[name])
        else:
            assert weight.device.type == "meta" and weight.shape == whole[name].shape


def trained(folder, **lora):
    """A policy whose adapters have been changed as much as training could."""
    policy, generator = load(folder, lora=Lora(rank=4, **lora)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_" in name:
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    return policy


def assert_close(one, other):
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("targets", [*TIED.values(), "all-linear"], ids=[*TIED, "neither"])
def test_merged_adapters_on_tied_weights_are_the_model_that_was_trained(folder, tmp_path, targets):
    policy = trained(folder, target_modules=targets)
    expected = logps(policy.model)
    assert (expected - logps(load(folder).model)).abs().max() > 0.1
    policy.save(tmp_path / "merged")
    assert_close(logps(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), expected)
    assert AutoConfig.from_pretrained(tmp_path / "merged").tie_word_embeddings is (targets == "all-linear")
    assert_close(logps(policy.model), expected)  # saving changes neither the policy nor what it ties
    assert policy.model.config.tie_word_embeddings


@pytest.mark.parametrize("targets", [TIED["both"], "all-linear"], ids=["tied", "plain"])
def test_a_folder_of_adapters_is_a_policy(folder, tmp_path, targets):
    policy = trained(folder, target_modules=targets, save="adapter")
    expected = logps(policy.model)
    policy.save(tmp_path / "adapter")
    again = load(tmp_path / "adapter")
    assert_close(logps(again.model), expected)
    assert type(again.model).__name__ == "LlamaForCausalLM" and all(w.requires_grad for w in again.model.parameters())
    assert again.codec.end_tokens == (1,) and again.codec.max_positions == 512

    second = load(tmp_path / "adapter", lora=Lora(rank=2))
    assert_close(logps(second.model), expected)
    with second.reference()() as reference:
        assert_close(logps(reference), expected)
    with pytest.raises(PolicyError, match=r"which is not saved\. Use policy\.lora\.save=merged"):
        load(tmp_path / "adapter", lora=Lora(save="adapter"))


def test_adapters_that_are_only_added_are_merged_into_shards(folder, tmp_path):
    """And so does the critic begin. Other adapters are merged into whole weights."""
    trained(folder, save="adapter").save(tmp_path / "adapter")
    source = HubPolicy(str(tmp_path / "adapter"), chat=False)
    policy = source.load(source.codec(), None, None, sharded=True)
    assert policy.shards is not None and all(weight.is_meta for weight in policy.model.parameters())
    critic = value_model(policy)
    values = {name: weight for name, weight in critic.model.named_parameters() if not weight.is_meta}
    assert critic.shards is policy.shards and set(values) == {"lm_head.weight", "lm_head.bias"}
    assert all(not weight.any() for weight in values.values())
    merged, base = load(tmp_path / "adapter").model, load(folder).model
    added = addable_from(tmp_path / "adapter", Pretrained(str(folder)).empty(torch.float32, None))
    assert len(added) == 14  # seven in each layer
    for name, layer in added.items():
        assert_close(base.get_parameter(name) + layer.get_delta_weight("default"), merged.get_parameter(name))
        assert layer.get_delta_weight("default").abs().max() > 0.1
    options = {"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["lm_head"]}
    for number, option in enumerate(options):
        other = LoraConfig(**{"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | option)
        get_peft_model(AutoModelForCausalLM.from_pretrained(folder), other).save_pretrained(tmp_path / str(number))
        assert not Pretrained(str(tmp_path / str(number))).can_be_sharded()


def test_layers_that_were_trained_whole_beside_adapters_stay_apart(folder, tmp_path):
    """As other kits train them: peft's modules_to_save."""
    settings = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), settings).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                weight.add_(torch.randn_like(weight))
    expected = logps(model)
    model.save_pretrained(tmp_path / "adapter")
    policy = load(tmp_path / "adapter")
    assert_close(logps(policy.model), expected)
    assert not policy.model.config.tie_word_embeddings  # other programs go by it
    policy.save(tmp_path / "whole")
    assert_close(logps(load(tmp_path / "whole").model), expected)


def test_adapters_say_what_they_belong_to(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    trained("model", save="adapter").save(tmp_path / "adapter")
    card = (tmp_path / "adapter/README.md").read_text()
    assert f"base_model: {folder}\n" in card and "Model Card for Model ID" not in card
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapter")
    for file in (tmp_path / "adapter").glob("tokenizer*"):  # as other kits leave it
        file.unlink()
    assert load("../adapter").codec.end_tokens == (1,)

    folder.rename(tmp_path / "moved")
    with pytest.raises(PolicyError, match=r"adapter.*base_model_name_or_path=.*model: is no folder with a config"):
        load(tmp_path / "adapter")
    shutil.copytree(tmp_path / "adapter", tmp_path / "other")
    circle = json.dumps({"base_model_name_or_path": str(tmp_path / "adapter")})
    (tmp_path / "other/adapter_config.json").write_text(circle)
    numbers = [json.dumps({"base_model_name_or_path": value}) for value in (None, 5, str(tmp_path / "other"))]
    for broken in ("{}", "[]", "", "[" * 100_000, circle, *numbers):
        (tmp_path / "adapter/adapter_config.json").write_text(broken)
        with pytest.raises(PolicyError, match=r"policy\.name=.*adapter(, whose .*other)?: its adapter_config\.json"):
            load(tmp_path / "adapter")


@pytest.mark.parametrize("lora", [None, Lora(), Lora(save="adapter")], ids=["whole", "merged", "adapter"])
def test_a_trained_policy_ends_where_it_ended_in_training(folder, tmp_path, lora):
    load(folder, end_tokens=["!"], lora=lora).save(tmp_path / "trained")
    again = load(tmp_path / "trained").codec
    assert again.end_tokens == (1, again.tokenizer.convert_tokens_to_ids("!"))


def test_a_generation_config_that_cannot_be_read_is_told(folder):
    for content in ("{", "[]", "3"):
        (folder / "generation_config.json").write_text(content)
        with pytest.raises(PolicyError, match=r"^policy\.name=\S*: its generation_config\.json cannot be read"):
            load(folder)
    (folder / "generation_config.json").unlink()
    assert load(folder).codec.end_tokens == (1,)


@pytest.mark.parametrize("end", ["</s>", ["a", 2], 2.0, -1, True, {"a": 1}])
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_end_tokens_that_are_not_numbers_are_refused(folder, end, file):
    (folder / "generation_config.json").unlink()
    content = json.loads((folder / "config.json").read_text()) if file == "config.json" else {}
    (folder / file).write_text(json.dumps(content | {"eos_token_id": end}))
    with pytest.raises(PolicyError, match=r"^policy\.name=\S*: (eos_token_id=|its config\.json cannot be loaded)"):
        HubPolicy(str(folder), chat=False).codec()


@pytest.mark.parametrize("lora", [None, Lora(save="adapter")], ids=["whole", "adapter"])
def test_a_generation_config_with_contradictions_is_exported_as_it_came(folder, tmp_path, lora):
    """As in many published models; transformers loads them, but refuses to save them once an end token is added."""
    contradictory = {"temperature": 0.9, "top_p": 0.6, "do_sample": False, "eos_token_id": 1}
    (folder / "generation_config.json").write_text(json.dumps(contradictory))
    load(folder, end_tokens=["!"], lora=lora).save(tmp_path / "trained")
    saved = json.loads((tmp_path / "trained/generation_config.json").read_text())
    ends = load(tmp_path / "trained").codec.end_tokens
    assert (saved["temperature"], saved["top_p"], saved["eos_token_id"]) == (0.9, 0.6, list(ends)) and len(ends) == 2


def test_adapters_that_do_not_fit_their_model_are_told(folder, tmp_path):
    trained(folder, save="adapter").save(tmp_path / "adapter")
    saved = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(saved | {"r": 3}))
    with pytest.raises(PolicyError, match="its adapters cannot be merged into their model"):
        load(tmp_path / "adapter")


@pytest.mark.parametrize("sharded", [False, True])
def test_adapters_that_are_incomplete_or_left_over_are_told(folder, tmp_path, sharded):
    trained(folder, save="adapter").save(tmp_path / "adapter")
    file, settings = (tmp_path / "adapter" / name for name in ("adapter_model.safetensors", "adapter_config.json"))
    adapters, saved = load_file(file), json.loads(settings.read_text())
    source = HubPolicy(str(tmp_path / "adapter"), chat=False)

    def refused():
        with pytest.raises(PolicyError) as error:
            source.load(source.codec(), None, None, sharded=sharded)
        return str(error.value)

    settings.write_text(json.dumps(saved | {"target_modules": ["q_proj"]}))
    assert "tensors in its file belong to no layer that adapter_config.json names" in refused()
    settings.write_text(json.dumps(saved))
    del adapters["base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"]
    save_file(adapters, file)
    assert "(1 tensors are missing in its file, for example base_model.model.model.layers.0.mlp.down_proj" in refused()


CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({canary!r}).touch()
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_in_a_folder_runs_only_where_it_is_trusted_and_nobody_is_asked(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks on standard input"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path / "cache")
    canary = tmp_path / "canary"
    (folder / "own.py").write_text(CODE.format(canary=str(canary)))
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(PolicyError, match=r"contains its own Python code.*policy\.trust_remote_code=true"):
        load(folder)
    assert not canary.exists()
    assert type(load(folder, trust_remote_code=True).model).__name__ == "OwnModel" and canary.exists()


class Evil:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('canary').touch()",))


@pytest.mark.parametrize("write", [lambda path: torch.save({"x": Evil()}, path),
                                   lambda path: path.write_bytes(pickle.dumps({"x": Evil()}))])  # fmt: skip
def test_weights_in_a_pickle_that_runs_code_are_refused(folder, tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").unlink()
    write(folder / "pytorch_model.bin")
    with pytest.raises(PolicyError, match=r"policy\.name=.*pickle file.*Use weights in the safetensors format"):
        load(folder)
    assert not (tmp_path / "canary").exists()


def test_weights_that_are_cut_or_incomplete_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "cut")
    whole = (folder / "model.safetensors").read_bytes()
    for share in (0, 0.01, 0.9):
        (tmp_path / "cut/model.safetensors").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(PolicyError, match=r"policy\.name=.*cut: cannot be loaded"):
            load(tmp_path / "cut")
    model = load(folder).model
    state = {name: weight for name, weight in model.state_dict().items() if "layers.1.mlp" not in name}
    model.save_pretrained(tmp_path / "cut", state_dict=state)
    with pytest.raises(
        PolicyError, match=r"weights are incomplete: 3 tensors are missing \(for example, model\.layers\.1\.mlp"
    ):
        load(tmp_path / "cut")


def test_a_tilde_is_the_home_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert HubPolicy("~/model", chat=False).codec().max_positions == 512
    with pytest.raises(PolicyError, match=r"~/other: is no folder"):
        HubPolicy("~/other").codec()


def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub():
    with pytest.raises(PolicyError, match=r"name=outputs/run/policy: is no folder with a config\.json"):
        HubPolicy("outputs/run/policy").codec()


def test_the_folder_of_a_run_is_told_from_that_of_its_policy(folder, tmp_path):
    (tmp_path / "run").mkdir()
    folder.rename(tmp_path / "run/policy")
    with pytest.raises(
        PolicyError, match=r"is no folder with a config\.json\. The policy of that run is .*/run/policy\."
    ):
        HubPolicy(f"{tmp_path}/run/").codec()
