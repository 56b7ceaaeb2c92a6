"""What CUDA can break: the same code on one GPU, with its kernels, its types and its memory."""

import pytest
import torch
from conftest import tiny
from runs import resume, run, weights
from transformers import Qwen3Config, Qwen3ForCausalLM

from dapo_lightning.callbacks.metrics_file import read_metrics
from dapo_lightning.forward.head import try_head
from dapo_lightning.forward.layout import is_switched
from dapo_lightning.forward.logprobs import completion_logps
from dapo_lightning.forward.probe import try_shared_prompts
from dapo_lightning.rollout.decode import Decode
from dapo_lightning.rollout.noise import uniform_noise
from dapo_lightning.types import Generation

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

SIZES = {
    "vocab_size": 90, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "initializer_range": 0.2,
}  # fmt: skip
PROMPTS = [(10, 11, 12, 13, 14), (20, 21), (30,)]
NOISE = uniform_noise(0, "test", [0, 1, 2], num_completions=8, num_tokens=20)


def steps(folder):
    return [row for row in read_metrics(folder / "metrics.csv") if row["step"] > 0]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**SIZES)).eval().cuda()


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("autocast", "bound"), [(False, 1e-3), (True, 0.2)])
def test_sampled_log_probs_are_those_of_a_forward_pass(model, shared, autocast, bound):
    assert not shared or (try_shared_prompts(model) and is_switched(model))
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        batches = Decode()(model, PROMPTS, NOISE, Generation(20, 0.7), (1, 40, 41))
        completions = [completion for batch in batches for group in batch for completion in group]
        rows = [prompt for prompt in PROMPTS for _ in range(8)]
        logps, _ = completion_logps(model, rows, [c.tokens_T for c in completions], 0.7)
    for row, completion in enumerate(completions):
        found = logps[row, : len(completion.tokens_T)].cpu()
        torch.testing.assert_close(found, completion.logps_T, atol=bound, rtol=0)


def test_shared_prompts_and_chunks_give_the_gradients_of_rows_on_their_own(model, monkeypatch):
    rows = [prompt for prompt in PROMPTS for _ in range(3)]
    completions = [torch.arange(5, 5 + length) for length in (7, 1, 12, 5, 6, 20, 2, 3, 4)]

    def gradients():
        model.zero_grad()
        logps, entropies = completion_logps(model, rows, completions, 0.7, with_entropies=True)
        (logps.sum() + entropies.square().sum()).backward()
        return [logps.detach(), *(weight.grad.clone() for weight in model.parameters())]

    expected = gradients()
    assert try_shared_prompts(model)
    try_head(model)
    monkeypatch.setattr("dapo_lightning.forward.head.CHUNK_LOGITS", 90 * 8)
    for found, known in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(found, known, atol=1e-3 * float(known.abs().max()), rtol=0)


def test_a_row_of_20480_tokens_with_a_vocabulary_of_152000_adds_less_than_a_gigabyte():
    """The limit excludes the gradient of the head's weights. Whole logits would take 12 bytes each, or 37 GB."""
    torch.manual_seed(0)
    config = Qwen3Config(**SIZES | {"vocab_size": 152_064, "max_position_embeddings": 32_768, "num_hidden_layers": 1})
    model = Qwen3ForCausalLM(config).eval().cuda()
    try_head(model)
    row = torch.arange(20_480) % 150_000
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.autocast("cuda", torch.bfloat16):
        logps, _ = completion_logps(model, [(1, 2, 3)], [row], 0.9)
    logps.sum().backward()
    added = (torch.cuda.max_memory_allocated() - before) / 1e9
    print(f"\nadded by 20,480 tokens x 152,064: {added:.2f} GB")
    assert added < 1


@pytest.mark.parametrize(
    "options",
    [[], ["trainer.precision=bf16-mixed"], ["trainer=fsdp2", "trainer.devices=1"], ["kl=k3", "clip.upper=1.3"]],
    ids=["float32", "bf16-mixed", "fsdp2", "reference"],
)
def test_a_run_trains_and_goes_on(tmp_path, options):
    whole = run(tmp_path / "whole", *options)
    part = run(tmp_path / "part", *options, "num_steps=2")
    resume(part, "num_steps=4")
    rows = steps(whole)
    assert len(rows) == 4 and all(0 <= row["sampling/logp_gap"] < 0.1 for row in rows)
    ours, theirs = weights(whole), weights(part)
    for name, weight in ours.items():
        torch.testing.assert_close(theirs[name], weight, atol=2e-3, rtol=0)


def test_adapters(tmp_path):
    tiny(seed=0).save(tmp_path / "base")
    options = ["policy=lora", f"policy.name={tmp_path / 'base'}", "policy.chat=false", "trainer.precision=bf16-mixed"]
    rows = steps(run(tmp_path / "run", *options))
    assert len(rows) == 4 and all(row["sampling/logp_gap"] < 0.1 for row in rows)
