"""The procedural task and the warm start that it teaches."""

import re

import pytest
import torch
from conftest import tiny
from hydra.utils import instantiate
from runs import config

from dapo_lightning.forward.logprobs import completion_logps
from dapo_lightning.policy.codec import all_end_tokens
from dapo_lightning.policy.tiny import TinyPolicy, tiny_tokenizer
from dapo_lightning.policy.warm_start import WarmStart
from dapo_lightning.reward.exact import Exact
from dapo_lightning.types import Prompt


@pytest.fixture
def dataset():
    return instantiate(config("data.num_train=2000", "run_folder=x").data)


def terms(question):
    return [int(term) for term in re.findall(r"[+-]?\d+", question)]


def test_answers_are_right_and_totals_stay_in_bounds(dataset):
    for prompt in dataset.train_prompts()[:200]:
        numbers = terms(prompt.text)
        assert int(prompt.answer) == sum(numbers) and 2 <= len(numbers) <= 7
        assert all(0 <= sum(numbers[:count]) <= 9 for count in range(1, len(numbers) + 1))


def test_train_held_out_and_worked_examples_are_disjoint_and_seeded(dataset):
    train, held_out = ({p.text for p in split} for split in (dataset.train_prompts(), dataset.validation_prompts()))
    shown = {example.prompt for example in dataset.worked_examples(2000, seed=0)}
    assert not train & held_out and not shown & held_out
    assert dataset.train_prompts() == dataset.train_prompts()
    assert dataset.worked_examples(5, seed=0) != dataset.worked_examples(5, seed=1)


def test_every_worked_example_is_correct_and_all_ways_of_writing_occur(dataset):
    examples = dataset.worked_examples(1000, seed=0)
    for example in examples:
        prompt = Prompt(example.prompt, str(sum(terms(example.prompt))), "x")
        assert Exact("#")([prompt], [example.solution])[0].correct
        for left, operation, right in re.findall(r"(?:^|[=?])(\d+)[a-z]([+-]\d)=(\d+)", example.solution):
            assert int(left) + int(operation) == int(right)
    plain, later = examples[:650], examples[650:]
    assert not any("?" in example.solution or example.solution[0] == "#" for example in plain)
    assert sum(example.solution[0] == "#" for example in later) > 70
    assert sum("?" in example.solution for example in later) > 70


@pytest.mark.parametrize(
    ("override", "key"),
    [("data.min_terms=1", "min_terms"), ("data.max_total=5", "max_total"), ("data.direct=0.9", "direct")],
)
def test_settings_without_meaning_are_refused(override, key):
    with pytest.raises(Exception, match=key):
        instantiate(config(override, "run_folder=x").data)


def test_tokenizer_is_lossless_and_keeps_numbers_whole():
    tokenizer = tiny_tokenizer()
    for text in ("7a+5b-3=", "12a-3=9?9#9", "Hello, world!\n  007 123456"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("12+5")["input_ids"]) == 2


def policy_with(warm_start, hidden=32):
    sizes = {"hidden_size": hidden, "intermediate_size": 64, "num_layers": 2, "num_heads": 2, "max_positions": 512}
    return TinyPolicy(**sizes, initializer_range=0.05, seed=0, warm_start=warm_start)


def test_warm_start_learns_is_cached_and_keyed_by_its_settings(dataset, tmp_path, monkeypatch):
    settings = {"batch_size": 16, "learning_rate": 3e-3, "max_solution_tokens": 40, "seed": 0}
    source = policy_with(WarmStart(num_steps=30, **settings))
    policy = source.load(source.codec(), dataset, tmp_path)
    example = dataset.worked_examples(1, seed=9)[0]
    encode = policy.codec.encode_text
    rows = [encode(example.prompt)], [torch.tensor(encode(example.solution))]
    assert (
        completion_logps(policy.model, *rows, 1.0)[0].sum() > completion_logps(tiny(0).model, *rows, 1.0)[0].sum() + 5
    )
    assert not policy.model.training

    monkeypatch.setattr(WarmStart, "_train", lambda *_: pytest.fail("trained again in spite of the cache"))
    again = source.load(source.codec(), dataset, tmp_path)
    for name, tensor in policy.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
    monkeypatch.undo()
    policy_with(WarmStart(num_steps=2, **settings)).load(source.codec(), dataset, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_warm_start_from_a_folder(tmp_path):
    policy = tiny(seed=3)
    policy.save(tmp_path / "policy")
    loaded = policy_with(str(tmp_path / "policy")).load(policy.codec, None, tmp_path)
    assert torch.equal(policy.model.lm_head.weight, loaded.model.lm_head.weight)
    with pytest.raises(ValueError, match=r"policy\.warm_start=nowhere"):
        policy_with("nowhere").load(policy.codec, None, tmp_path)
    with pytest.raises(ValueError, match="do not fit"):
        policy_with(str(tmp_path / "policy"), hidden=64).load(policy.codec, None, tmp_path)


def test_a_dataset_without_worked_examples_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"no worked examples.*policy=smollm2.*policy\.warm_start"):
        source = policy_with(WarmStart(1, 1, 1e-3, 10, 0))
        source.load(source.codec(), object(), tmp_path)


def test_every_end_token_counts():
    tokenizer = tiny_tokenizer()
    assert all_end_tokens(tokenizer, []) == (1,)
    assert all_end_tokens(tokenizer, [7]) == (1, 7)
    assert all_end_tokens(tokenizer, [7, 1, 9]) == (1, 7, 9)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="end-of-sequence"):
        all_end_tokens(tokenizer, [])
