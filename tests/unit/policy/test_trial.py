"""The trial of a policy at load. `make test-zoo` tries every architecture; these are a few telling ones."""

import logging
from copy import deepcopy

import pytest
import torch
import zoo
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Qwen2Config,
)
from zoo import AGAIN, REACH, TOGETHER

from benchmarks.floor import Work
from dapo_lightning.forward.layout import is_switched
from dapo_lightning.forward.logprobs import completion_logps, left_pad
from dapo_lightning.forward.ways import ways_of
from dapo_lightning.policy import PolicyError
from dapo_lightning.policy.hub import HubPolicy
from dapo_lightning.policy.limits import changing_positions, limits_within, max_positions
from dapo_lightning.policy.miniature import build, miniature, small_config
from dapo_lightning.policy.trial import choose_ways
from dapo_lightning.rollout.decode import Decode
from dapo_lightning.rollout.hf_generate import HFGenerate
from dapo_lightning.rollout.noise import uniform_noise
from dapo_lightning.rollout.weights import prepared_weights
from dapo_lightning.types import Generation


@pytest.mark.parametrize(
    ("name", "prompts", "decoding", "attention"),
    [
        ("qwen3", "shared", "cached", "sdpa"),
        ("qwen3_moe", "shared", "cached", "sdpa"),  # adapters on the weights of experts, two in one module
        ("deepseek_v3", "shared", "cached", "sdpa"),  # keys and values of different widths
        ("gemma3_text", "padded", "cached", "sdpa"),  # windows
        ("phimoe", "padded", "cached", "sdpa"),  # a window that stands only in the mask
        ("deepseek_v32", "padded", "cached", "sdpa"),  # sparse attention
        ("diffllama", "padded", "cached", "sdpa"),  # attends twice in each layer
        ("gpt_oss", "padded", "cached", "eager"),  # has no sdpa
        ("mamba2", "padded", "cached", "eager"),  # a recurrent state only
        ("lfm2", "padded", "cached", "sdpa"),  # convolutions and attention, in different layers
        ("falcon_h1", "padded", "cached", "sdpa"),  # a recurrent state and keys, in the same layers
        ("minimax", "padded", "cached", "sdpa"),  # a cache of its own
        ("openai-gpt", "padded", AGAIN, "eager"),  # no cache
        ("bart", TOGETHER, "cached", "sdpa"),  # positions that count the padding
    ],
)
def test_log_probs_are_those_of_a_forward_pass_beyond_all_limits(name, prompts, decoding, attention):
    found = zoo.finding(name, with_adapters=name == "qwen3_moe")
    assert (found.prompts, found.decoding, found.attention, found.refused) == (prompts, decoding, attention, "")
    assert found.lora in ("", "exact")


def test_a_model_that_sees_later_tokens_is_refused():
    assert "depend on the tokens after it. Choose another model" in zoo.finding("bert").refused


def load(folder, name, reach=REACH, attention="auto", **options):
    zoo.specimen(name, folder, **options)
    source = HubPolicy(str(folder), chat=False, attention=attention)
    return source.load(source.codec(), None, folder, reach)


def test_a_window_matters_only_if_rows_can_be_longer(caplog):
    caplog.set_level(logging.INFO)
    config = small_config(MistralConfig(sliding_window=None), None)
    config.sliding_window = 32
    model = MistralForCausalLM(deepcopy(config)).eval()
    choose_ways(model, 32, may_share=True)
    assert is_switched(model) and not caplog.records
    model = MistralForCausalLM(deepcopy(config)).eval()
    choose_ways(model, 33, may_share=True)
    assert not is_switched(model)
    (message,) = caplog.messages
    assert (
        "cannot share prompts (attention with a sliding_window shorter than rows): each completion of a group computes"
        in message
    )
    assert message.endswith("It can with at most 32 tokens (its sliding_window) for prompt and completion: see "
                            "max_prompt_tokens.")  # fmt: skip


def test_what_is_slower_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    model = load(tmp_path, "openai-gpt").model
    assert not ways_of(model).continues
    assert "transformers has no sdpa for" in caplog.text
    assert "decoding reads all tokens again at each step" in caplog.text


def test_an_attention_that_was_asked_for_is_kept(tmp_path):
    assert load(tmp_path / "kept", "llama", attention="eager").model.config._attn_implementation == "eager"
    with pytest.raises(PolicyError, match="cannot be loaded"):
        load(tmp_path / "none", "gemma2", attention="sdpa")


def test_generate_is_refused_where_only_decode_is_right(tmp_path):
    model = load(tmp_path, "bart").model
    with pytest.raises(ValueError, match="rollout=decode"):
        list(HFGenerate()(model, zoo.PROMPTS, uniform_noise(0, "t", range(3), 2, 4), Generation(4), (1,)))


LONG = {"rope_type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48, "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (Phi3Config(max_position_embeddings=131072, original_max_position_embeddings=4096, rope_parameters=LONG), 4096),
        (LlamaConfig(max_position_embeddings=2048, rope_parameters={
            "rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}), 2048),
    ],
    ids=["longrope", "dynamic"],
)  # fmt: skip
def test_positions_that_change_with_the_length_are_known(config, length):
    assert changing_positions(config, length) is None
    assert changing_positions(config, length + 1) == changing_positions(config, None) is not None
    assert changing_positions(config, None)[1] == length
    assert changing_positions(LlamaConfig(), None) is None


def test_rows_beyond_the_original_length_are_refused(tmp_path):
    dynamic = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    model = build(zoo.MODEL_FOR_CAUSAL_LM_MAPPING[LlamaConfig], small_config(LlamaConfig(), None), None)
    model.config.rope_parameters, model.config.max_position_embeddings = dynamic, 32
    zoo.specimen("llama", tmp_path)
    model.save_pretrained(tmp_path)
    source = HubPolicy(str(tmp_path), chat=False)
    with pytest.raises(PolicyError, match=r"rope_type=dynamic.*max_prompt_tokens and max_new_tokens.*at most 32\."):
        source.load(source.codec(), None, tmp_path, reach=33)
    assert is_switched(source.load(source.codec(), None, tmp_path, reach=32).model)


def test_yarn_extends_the_length(tmp_path):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "rope_theta": 1e6}
    assert max_positions(Qwen2Config(max_position_embeddings=32768, rope_parameters=yarn)) == 131072
    assert max_positions(Qwen2Config(max_position_embeddings=131072, rope_parameters=yarn)) == 131072
    assert max_positions(Qwen2Config(max_position_embeddings=32768)) == 32768
    assert max_positions(GPT2Config()) == 1024


def test_limits_that_rows_do_not_reach_stay_as_they_are():
    config = MistralConfig(sliding_window=4096)
    assert small_config(config, reach=4096).sliding_window == 4096 and limits_within(config, 4096) == {}
    assert small_config(config, reach=4097).sliding_window == 4 and limits_within(config, 4097) == {
        "sliding_window": 4096
    }


def test_the_trial_leaves_no_trace():
    model = MistralForCausalLM(small_config(MistralConfig(), None)).eval()
    before, random = {name: w.clone() for name, w in model.state_dict().items()}, torch.get_rng_state()
    choose_ways(model, REACH, may_share=True)
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(weight.grad is None for weight in model.parameters())
    assert sum(weight.numel() for weight in miniature(model, REACH).parameters()) < 100_000


def test_padding_is_a_token_of_the_prompt():
    """Gemma 3n divides by the norm of embeddings, and that of its padding token is 0."""
    tokens, mask = left_pad([(5, 6), (7, 8, 9, 10)], torch.device("cpu"))
    assert tokens.tolist() == [[5, 5, 5, 6], [7, 8, 9, 10]] and mask.tolist() == [[0, 0, 1, 1], [1] * 4]
    config = small_config(zoo.CONFIG_MAPPING["gemma3n_text"](), None)
    model = build(zoo.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config, None)
    with torch.no_grad():
        model.get_input_embeddings().weight[0] = 0
    completion_logps(model, [(5, 6), (7, 8, 9, 10)], [torch.arange(20, 26), torch.arange(20, 22)], 1.0)[
        0
    ].sum().backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


def test_gpt2s_linear_layers_are_prepared_and_counted():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=90, n_embd=32, n_layer=2, n_head=4)).eval()
    tokens = torch.arange(12).view(2, 6)
    with torch.no_grad():
        expected = model(tokens).logits
        with prepared_weights(model):
            assert sum("forward" in module.__dict__ for module in model.modules()) == 2 * 4 + 1
            torch.testing.assert_close(model(tokens).logits, expected, atol=1e-4, rtol=1e-4)
    work = Work.of(model)
    assert (work.body, work.head, work.cache) == (2 * 12 * 32**2, 90 * 32, 2 * 32 * 2 * 4)
    list(Decode()(model, [(5, 6)], uniform_noise(0, "t", [0], 2, 3), Generation(3), (1,)))
