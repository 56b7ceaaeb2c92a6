"""The LM head that returns log-probs and entropies of tokens in place of logits."""

import copy

import pytest
import torch
from small_models import COMPLETIONS, PROMPTS, SIZES
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PhiConfig,
    PhiForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from dapo_lightning.forward import head
from dapo_lightning.forward.head import try_head
from dapo_lightning.forward.logprobs import completion_logps
from dapo_lightning.forward.probe import try_shared_prompts
from dapo_lightning.forward.ways import ways_of

SERVED = [
    (Qwen3ForCausalLM, Qwen3Config(**SIZES, tie_word_embeddings=True)),
    (Qwen3ForCausalLM, Qwen3Config(**SIZES, tie_word_embeddings=False)),
    (GPT2LMHeadModel, GPT2Config(vocab_size=90, n_embd=32, n_layer=2, n_head=4)),
    (PhiForCausalLM, PhiConfig(**SIZES)),  # its head has a bias
]


def built(kind, config):
    torch.manual_seed(0)
    return kind(config).eval()


def results(model, temperature):
    """Log-probs, entropies, and the gradients of a function of both."""
    model.zero_grad()
    logps, entropies = completion_logps(model, PROMPTS, COMPLETIONS, temperature, with_entropies=True)
    weights = torch.linspace(-1, 1, logps.numel()).view_as(logps)
    (logps * weights + entropies * weights.flip(0)).sum().backward()
    return [logps.detach(), entropies.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize(("kind", "config"), SERVED)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunks_give_the_values_and_gradients_of_whole_logits(kind, config, shared, temperature, monkeypatch):
    model = built(kind, config)
    assert not shared or try_shared_prompts(model)
    expected = results(model, temperature)
    try_head(model)
    assert ways_of(model).head_is_last and ways_of(copy.deepcopy(model)).head_is_last
    for chunk in (10**9, 4 * 90):  # one chunk, and eight
        monkeypatch.setattr(head, "CHUNK_LOGITS", chunk)
        for found, known in zip(results(model, temperature), expected, strict=True):
            torch.testing.assert_close(found, known, atol=2e-5 * float(known.abs().max()) + 1e-7, rtol=0)


def test_logits_of_more_than_a_chunk_never_exist(monkeypatch):
    model = built(*SERVED[0])
    try_head(model)
    monkeypatch.setattr(head, "CHUNK_LOGITS", 4 * 90)
    sizes, plain = [], head.token_statistics
    monkeypatch.setattr(
        head, "token_statistics", lambda logits, *rest: (sizes.append(len(logits)), plain(logits, *rest))[1]
    )
    completion_logps(model, PROMPTS, COMPLETIONS, 1.0)[0].sum().backward()
    assert max(sizes) == 4 and sum(sizes) == 2 * 31  # 31 tokens, forward and again for the backward pass


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (Gemma2ForCausalLM, Gemma2Config(**SIZES, final_logit_softcapping=30.0)),
        (CohereForCausalLM, CohereConfig(**SIZES, logit_scale=0.1)),
    ],
)
def test_a_model_that_changes_logits_behind_its_head_computes_them_whole(kind, config):
    model = built(kind, config)
    expected = results(model, 0.7)
    try_head(model)
    assert not ways_of(model).head_is_last
    for found, known in zip(results(model, 0.7), expected, strict=True):
        assert torch.equal(found, known)
