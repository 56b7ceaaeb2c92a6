"""Shared prompts: the same numbers as row by row, and models that cannot are left as they were."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import algorithm, make_group, mini_batch, tiny
from small_models import COMPLETIONS, PROMPTS, SIZES
from torch.nn import functional as F
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from dapo_lightning.forward.layout import SHARED_PROMPT, UnsupportedAttentionError, is_switched
from dapo_lightning.forward.logprobs import completion_logps
from dapo_lightning.forward.micro_batches import packed_micro_batches
from dapo_lightning.forward.packed_layout import PackedLayout
from dapo_lightning.forward.probe import try_shared_prompts
from dapo_lightning.forward.rows import LONG, attend
from dapo_lightning.rollout.decode import Decode
from dapo_lightning.rollout.noise import uniform_noise
from dapo_lightning.step.objective import surrogate_loss
from dapo_lightning.types import Generation


def qwen(**options):
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**SIZES | options)).eval()


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (Qwen2ForCausalLM, Qwen2Config(**SIZES)),
        (Qwen3ForCausalLM, Qwen3Config(**SIZES)),
        (GemmaForCausalLM, GemmaConfig(**SIZES)),
        (Phi3ForCausalLM, Phi3Config(**SIZES, sliding_window=None)),
        (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=None)),
        (GPT2LMHeadModel, GPT2Config(vocab_size=90, n_embd=32, n_layer=2, n_head=4)),
    ],
)
def test_log_probs_and_gradients_are_those_of_rows_on_their_own(kind, config):
    torch.manual_seed(0)
    model = kind(config).eval()
    found = []
    for shared in (False, True):
        assert try_shared_prompts(model) if shared else not is_switched(model)
        logps, _ = completion_logps(model, PROMPTS, COMPLETIONS, temperature=0.7)
        model.zero_grad()
        (logps * torch.linspace(-1, 1, logps.numel()).view_as(logps)).sum().backward()
        found.append((logps.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (apart, gradients), (packed, other_gradients) = found
    padding = torch.arange(apart.shape[1]) >= torch.tensor([len(c) for c in COMPLETIONS])[:, None]
    assert not packed[padding].any() and not apart[padding].any()
    torch.testing.assert_close(packed, apart, atol=1e-4, rtol=1e-4)
    for one, other in zip(other_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3 * float(other.abs().max()), rtol=0)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (Qwen2ForCausalLM, Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=1)),
        (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=8)),
        (Gemma2ForCausalLM, Gemma2Config(**SIZES)),
        (GptOssForCausalLM, GptOssConfig(**SIZES, num_local_experts=2, num_experts_per_tok=1)),
        (MambaForCausalLM, MambaConfig(vocab_size=90, hidden_size=32, num_hidden_layers=2)),
    ],
)
def test_a_model_that_attends_in_a_way_of_its_own_is_left_as_it_was(kind, config):
    torch.manual_seed(0)
    model = kind(config).eval()
    before = model.config._attn_implementation
    logps = completion_logps(model, PROMPTS, COMPLETIONS, 1.0)[0]
    assert not try_shared_prompts(model) and not is_switched(model)
    assert model.config._attn_implementation == before
    assert torch.equal(completion_logps(model, PROMPTS, COMPLETIONS, 1.0)[0], logps)


def test_a_window_matters_only_to_rows_that_are_longer():
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=24)).eval()
    prompt, noise = (5, 6, 7, 8), uniform_noise(0, "test", [0], 2, 24)
    expected = completion_logps(model, [prompt], [torch.arange(11, 31)], 1.0)[0]
    assert try_shared_prompts(model)
    torch.testing.assert_close(completion_logps(model, [prompt], [torch.arange(11, 31)], 1.0)[0], expected)
    list(Decode()(model, [prompt], noise[..., :21], Generation(21), ()))  # feeds 24 tokens: the last one is not fed
    with pytest.raises(UnsupportedAttentionError, match="sliding_window shorter than rows"):
        list(Decode()(model, [prompt], noise, Generation(24), ()))
    with pytest.raises(UnsupportedAttentionError, match="sliding_window shorter than rows"):
        completion_logps(model, [prompt], [torch.arange(11, 33)], 1.0)


@pytest.mark.parametrize("sizes", [{}, {"num_key_value_heads": 4}, {"num_key_value_heads": 1}], ids=str)
def test_decode_samples_the_same_with_prompts_shared_and_not(sizes):
    model = qwen(**sizes, initializer_range=0.1)
    prompts = [(5, 6, 7, 8), (9, 10), (5, 6, 7, 8), (30,) * 9]  # one of them twice
    noise = uniform_noise(0, "test", range(4), num_completions=6, num_tokens=90)  # more than the first capacity
    ends = (40, 41)
    (apart,) = Decode()(model, prompts, noise, Generation(90), ends)
    assert try_shared_prompts(model)
    (shared,) = Decode()(model, prompts, noise, Generation(90), ends)
    lengths = {len(c.tokens_T) for group in shared for c in group}
    assert len(lengths) > 8 and max(lengths) > 70
    for one, other in zip([c for g in shared for c in g], [c for g in apart for c in g], strict=True):
        assert one.tokens_T.tolist() == other.tokens_T.tolist() and one.truncated == other.truncated
        torch.testing.assert_close(one.logps_T, other.logps_T, atol=1e-4, rtol=1e-4)


def test_gradients_with_recomputed_activations():
    """The layout must reach the recomputation too."""
    model = qwen()
    try_shared_prompts(model)
    gradients = []
    for recompute in (False, True):
        if recompute:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.train()  # there is no dropout
        model.zero_grad()
        completion_logps(model, PROMPTS, COMPLETIONS, 1.0)[0].sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]).clone())
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-5)


def test_bf16_compute():
    model = qwen(initializer_range=0.1)
    exact = completion_logps(model, PROMPTS, COMPLETIONS, 1.0)[0]
    try_shared_prompts(model)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = completion_logps(model, PROMPTS, COMPLETIONS, 1.0)[0]
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0.05)


def test_the_saved_model_knows_nothing_of_it(tmp_path):
    model = qwen()
    try_shared_prompts(model)
    model.save_pretrained(tmp_path)
    again = Qwen2ForCausalLM.from_pretrained(tmp_path)
    assert again.config._attn_implementation != SHARED_PROMPT
    assert SHARED_PROMPT not in (tmp_path / "config.json").read_text()


def test_the_loss_does_not_depend_on_the_cut():
    groups = [make_group(n, [1, -1, 1, -1], [2 + n, 9, 4, 1]) for n in range(4)]
    rows = [
        replace(row, trajectory=replace(row.trajectory, old_logps_T=row.trajectory.logps_T))
        for row in mini_batch(groups, algorithm()).rows
    ]
    model = tiny(seed=1).model
    gradients = []
    for max_tokens in (10_000, 40, 17, 1):
        model.zero_grad()
        for part in packed_micro_batches(
            rows, lambda row: row.prompt_tokens, lambda row: row.trajectory.num_tokens, max_tokens
        ):
            surrogate_loss(model, part, algorithm(), temperature=0.8)[0].backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]).clone())
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], atol=1e-5 * float(gradients[0].abs().max()), rtol=0)


def test_micro_batches_count_a_prompt_once():
    rows = [("ab", 3), ("ab", 2), ("c", 4), ("ab", 5), ("c", 20), ("c", 1)]
    parts = packed_micro_batches(rows, lambda row: row[0], lambda row: row[1], max_tokens=8)
    assert parts == [[("ab", 3), ("ab", 2)], [("ab", 5)], [("c", 4)], [("c", 20)], [("c", 1)]]
    assert packed_micro_batches(rows[:3], lambda row: row[0], lambda row: row[1], 12) == [rows[:3]]


@pytest.mark.parametrize("long", [1, 6])
def test_long_completions_attend_without_a_mask_and_give_the_same(long, monkeypatch):
    """Up to 11 tokens of a completion are fed here; 6 mixes rows of both kinds."""
    model, found = qwen(initializer_range=0.1), []
    for limit in (LONG, long):
        try_shared_prompts(model)
        monkeypatch.setattr("dapo_lightning.forward.logprobs.PackedLayout", partial(PackedLayout, long=limit))
        model.zero_grad()
        logps, _ = completion_logps(model, PROMPTS, COMPLETIONS, temperature=0.7)
        (logps * torch.linspace(-1, 1, logps.numel()).view_as(logps)).sum().backward()
        found.append((logps.detach(), [p.grad.clone() for p in model.parameters()]))
    (masked, gradients), (whole, other_gradients) = found
    assert not torch.equal(masked, whole)  # other kernels
    torch.testing.assert_close(whole, masked, atol=1e-5, rtol=1e-5)
    for one, other in zip(other_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * float(other.abs().max()), rtol=0)


def test_no_mask_grows_with_the_square_of_a_long_completion():
    sizes = {}
    for length in (LONG, 2 * LONG):
        for prompt in (10, 2 * LONG):
            layout = PackedLayout([(1,) * prompt], [length], torch.device("cpu"))
            sizes[length, prompt] = sum(t.numel() for rows in layout._completions for t in vars(rows).values())
            assert sizes[length, prompt] == prompt + 2 * length
    (short,) = PackedLayout([(1,) * 10], [LONG - 1], torch.device("cpu"))._completions
    assert short.mask.shape == (1, 1, LONG - 1, 10 + LONG - 1)
    (unusual,) = PackedLayout([(1,) * (5 * LONG)], [LONG], torch.device("cpu"))._completions
    assert unusual.mask.shape[-2:] == (LONG, 6 * LONG)  # rather than 5 * LONG tokens of a prompt in each row


def test_short_rows_in_bf16_have_the_gradients_of_float32():
    """On CPUs, torch's backward pass of short bf16 attention takes longer than that of float32."""
    torch.manual_seed(0)
    q, k, v = heads = [torch.randn(2, 20, 4, 16).bfloat16().requires_grad_() for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(attend(q, k, v, None, 0.25).float().square().sum(), heads)
    out = F.scaled_dot_product_attention(*(head.float().transpose(1, 2) for head in heads), is_causal=True, scale=0.25)
    exact = torch.autograd.grad(out.bfloat16().float().square().sum(), heads)
    assert all(map(torch.equal, found, exact))
