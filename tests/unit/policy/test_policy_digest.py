"""What a resumed run notices of a policy that was changed in its place."""

import json

import pytest
import torch
from conftest import tiny

from dapo_lightning.policy import PolicyError
from dapo_lightning.policy.digest import check_same, digest_of
from dapo_lightning.policy.hub import HubPolicy
from dapo_lightning.policy.lora import Lora


@pytest.fixture
def folder(tmp_path):
    tiny(seed=1).save(tmp_path / "model")
    return tmp_path / "model"


def digest(folder, has_reference=False, **options):
    source = HubPolicy(str(folder), chat=False, **options)
    return digest_of(source.load(source.codec(), None, None), has_reference)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def changed(folder, part):
    if part == "weights":
        tiny(seed=2).save(folder)
    elif part == "configuration":
        edit(folder / "config.json", rms_norm_eps=1e-3)
    elif part == "chat template":
        (folder / "chat_template.jinja").write_text("{{ messages }}")
    else:
        content = json.loads((folder / "tokenizer.json").read_text())
        vocabulary = content["model"]["vocab"]
        one, other = list(vocabulary)[10:12]
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
        (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize("part", ["tokenizer", "chat template", "configuration", "weights"])
def test_what_has_changed_is_named(folder, part):
    before = digest(folder, has_reference=True)
    assert digest(folder, has_reference=True) == before
    changed(folder, part)
    with pytest.raises(PolicyError, match=rf"resume: the {part} of the policy have changed since this run was saved"):
        check_same(before, digest(folder, has_reference=True))


def test_weights_count_if_no_checkpoint_restores_them(folder):
    whole, adapters = digest(folder), digest(folder, lora=Lora(rank=2))
    changed(folder, "weights")
    check_same(whole, digest(folder))
    with pytest.raises(PolicyError, match="the weights"):
        check_same(adapters, digest(folder, lora=Lora(rank=2)))


def test_one_tensor_of_many_is_enough(folder):
    policy = tiny(seed=1)
    before = digest_of(policy, has_reference=True)
    with torch.no_grad():
        policy.model.lm_head.weight += 1e-4
    assert digest_of(policy, has_reference=True)["weights"] != before["weights"]
