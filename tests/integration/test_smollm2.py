"""The whole kit on a real language model: SmolLM2-135M-Instruct, which `make test` puts into outputs/smollm2."""

import json

import pytest
import torch
from runs import ROOT, run

from dapo_lightning.policy.hub import HubPolicy
from dapo_lightning.policy.smollm2 import convert
from dapo_lightning.rollout.decode import Decode
from dapo_lightning.types import Generation, Prompt

FOLDER = ROOT / "outputs/smollm2"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="`make smollm2` makes it")


@pytest.fixture(scope="module")
def policy():
    source = HubPolicy(str(FOLDER))
    return source.load(source.codec(), None, None)


def test_the_tokenizer_splits_digits_and_ends_where_the_chat_does(policy):
    tokenizer = policy.codec.tokenizer
    assert tokenizer.tokenize("of 12 + 345?") == ["of", "Ġ", "1", "2", "Ġ+", "Ġ", "3", "4", "5", "?"]
    assert policy.codec.end_tokens == (tokenizer.convert_tokens_to_ids("<|im_end|>"),)
    text = tokenizer.decode(policy.codec.encode(Prompt("Hi", "", "x")))
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_it_is_the_real_model_in_float32(policy):
    weights = policy.model.state_dict()
    assert sum(weight.numel() for weight in policy.model.parameters()) == 134_515_008
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    noise = torch.full((1, 1, 12), 0.5)
    prompt = policy.codec.encode(Prompt("What is the capital of France?", "Paris", "x"))
    likely = Generation(12, temperature=0.1)
    (((completion,),),) = Decode()(policy.model, [prompt], noise, likely, policy.codec.end_tokens)
    assert "Paris" in policy.codec.decode(completion.tokens_T)


def test_a_dapo_step_on_a_reasoning_gym_task(tmp_path):
    folder = run(
        tmp_path / "run", "policy=smollm2", f"policy.name={FOLDER}", "data=reasoning_gym", "data.task=chain_sum",
        "data.options={min_terms: 2, max_terms: 2, max_digits: 1}", "data.num_train=20", "data.num_validation=2",
        "reward=weighted", "reward.function.path=rewards.even_length", "reward.math.pattern='(-?\\d+)'",
        "evaluation.num_prompts=2", "num_steps=1", "num_prompts_per_step=2", "num_completions_per_prompt=2",
        "sampling=static", "max_new_tokens=8", "trainer.precision=bf16-mixed", "callbacks.checkpoint.every=100",
    )  # fmt: skip
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["gradient_steps"] == 2 and summary["tokens"]["generated"] > 8
    header = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"reward/math", "reward/function", "grading/timeout"} <= set(header)


def test_conversion_needs_the_download(tmp_path):
    with pytest.raises(FileNotFoundError, match="make smollm2"):
        convert(tmp_path, tmp_path / "model")
