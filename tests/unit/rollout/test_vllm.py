"""The adapter of `rollout=vllm`, against a double: it has never met a real vLLM, let alone a GPU.

The double has the signatures and the fields of vLLM 0.27 to 0.30 that the adapter uses, notes what it is given, and
answers with completions that it makes up from the seed of each request.
"""

import json
import os
import random
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import tiny
from omegaconf import OmegaConf
from runs import ROOT, SMALL, config, run, weights

from dapo_lightning.callbacks.metrics_file import read_metrics
from dapo_lightning.rollout.noise import uniform_noise
from dapo_lightning.rollout.vllm import Vllm
from dapo_lightning.run.build import build
from dapo_lightning.run.errors import ConfigError
from dapo_lightning.types import Generation

PROMPTS = [(10, 11, 12), (20, 21), (30,)]
NOISE = uniform_noise(0, "test", [0, 1, 2], num_completions=4, num_tokens=20)
ENDS = (1, 40, 41)
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(kw_only=True)
class SamplingParams:
    """Of vLLM's many fields those that the adapter sets, with vLLM's defaults."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: None
    outputs: list[CompletionOutput]
    finished: bool


class Served(torch.nn.Module):
    """vLLM's own model: it knows the weights by other names, and takes the policy's."""

    def __init__(self, lacks=()):
        super().__init__()
        self.fused = torch.nn.Parameter(torch.zeros(1))
        self.loads, self.lacks = [], lacks

    def load_weights(self, weights):
        assert not torch.is_inference_mode_enabled() and not torch.is_autocast_enabled("cpu")
        self.loads.append({name: weight.clone() for name, weight in weights})
        return {"fused"} - set(self.lacks)


class LLM:
    made = []

    def __init__(
        self, model, *, skip_tokenizer_init=False, dtype="auto", gpu_memory_utilization=0.9, enforce_eager=False,
        load_format="auto", max_model_len=None, logprobs_mode="raw_logprobs", distributed_executor_backend=None,
    ):  # fmt: skip
        self.settings = {name: value for name, value in locals().items() if name not in ("self", "model")}
        self.config = json.loads((Path(model) / "config.json").read_text())
        self.served, self.calls, self.resets = Served(), [], 0
        assert not torch.is_inference_mode_enabled() and not torch.is_autocast_enabled("cpu")
        LLM.made.append(self)

    def apply_model(self, func):
        return [func(self.served)]

    def reset_prefix_cache(self):
        self.resets += 1
        return True

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True):
        assert self.served.loads, "dummy weights must not generate"
        assert not torch.is_inference_mode_enabled() and not torch.is_autocast_enabled("cpu")
        self.calls.append((prompts, sampling_params))
        return [
            RequestOutput(str(i), None, prompt["prompt_token_ids"], None, [made_up(params)], finished=True)
            for i, (prompt, params) in enumerate(zip(prompts, sampling_params, strict=True))
        ]


def made_up(params: SamplingParams) -> CompletionOutput:
    """What vLLM says of a completion: the token drawn is among its log-probs, not always the most likely one."""
    assert params.ignore_eos and not params.detokenize and params.n == 1
    source = random.Random(params.seed)
    tokens, logprobs = [], []
    while len(tokens) < params.max_tokens:
        tokens.append(source.randrange(50))
        drawn = {tokens[-1]: Logprob(-1 - source.random(), rank=2)}
        logprobs.append({source.randrange(50, 90): Logprob(-0.5, rank=1)} | drawn)
        if tokens[-1] in params.stop_token_ids:
            return CompletionOutput(0, "", tokens, None, logprobs, "stop", tokens[-1])
    return CompletionOutput(0, "", tokens, None, logprobs, "length")


@pytest.fixture(autouse=True)
def vllm(monkeypatch):
    for name in TORCHRUN:
        monkeypatch.setenv(name, "")  # so that what the engine sets is taken back
        monkeypatch.delenv(name)
    double = ModuleType("vllm")
    double.__spec__ = ModuleSpec("vllm", None)
    double.LLM, double.SamplingParams = LLM, SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", double)
    monkeypatch.setattr(LLM, "made", [])
    return LLM.made


def sample(rollout, model, prompts=PROMPTS, noise=NOISE, ends=ENDS):
    batches = rollout(model, prompts, noise, Generation(20), ends)
    return [completion for batch in batches for group in batch for completion in group]


def test_what_is_asked_of_vllm(policy, vllm):
    rollout = Vllm(gpu_memory_utilization=0.5, max_model_len=64, enforce_eager=True)
    list(rollout(policy.model, PROMPTS, NOISE, Generation(20, 0.7, 0.9), ENDS))
    (llm,) = vllm
    assert llm.settings == {
        "skip_tokenizer_init": True, "dtype": "bfloat16", "gpu_memory_utilization": 0.5, "enforce_eager": True,
        "load_format": "dummy", "max_model_len": 64, "logprobs_mode": "processed_logprobs",
        "distributed_executor_backend": "external_launcher",
    }  # fmt: skip
    assert llm.config["architectures"] == ["LlamaForCausalLM"] and llm.config["hidden_size"] == 32
    assert [os.environ[name] for name in TORCHRUN[:4]] == ["0", "1", "0", "127.0.0.1"]
    ((prompts, params),) = llm.calls
    assert [prompt["prompt_token_ids"] for prompt in prompts] == [list(p) for p in PROMPTS for _ in range(4)]
    assert len({p.seed for p in params}) == 12 and all(0 <= p.seed < 2**63 for p in params)
    for p in params:
        assert (p.temperature, p.top_p, p.max_tokens, p.logprobs) == (0.7, 0.9, 20, 0)
        assert p.stop_token_ids == [1, 40, 41]


def test_completions_are_what_vllm_answers(policy, vllm):
    completions = sample(Vllm(), policy.model)
    ((_, params),) = vllm[0].calls
    kinds = set()
    for completion, p in zip(completions, params, strict=True):
        answer = made_up(p)
        assert completion.tokens_T.tolist() == answer.token_ids and completion.tokens_T.dtype == torch.long
        drawn = [at[token].logprob for token, at in zip(answer.token_ids, answer.logprobs, strict=True)]
        torch.testing.assert_close(completion.logps_T, torch.tensor(drawn))
        assert torch.equal(completion.entropies_T, -completion.logps_T)
        assert completion.truncated == (answer.finish_reason == "length")
        assert completion.truncated or completion.tokens_T[-1].item() == answer.stop_reason  # the end token is in
        kinds.add(completion.truncated)
    assert kinds == {True, False}


def test_an_end_token_in_the_last_place_is_not_truncation(policy):
    for completion in sample(Vllm(), policy.model, noise=NOISE[:, :, :1], ends=range(50)):
        assert len(completion.tokens_T) == 1 and not completion.truncated


def test_a_completion_does_not_depend_on_its_batch(policy):
    together = sample(Vllm(), policy.model)
    backwards = sample(Vllm(), policy.model, PROMPTS[::-1], NOISE.flip(0))
    alone = sample(Vllm(), policy.model, PROMPTS[1:2], NOISE[1:2])
    tokens = [c.tokens_T.tolist() for c in together]
    assert [c.tokens_T.tolist() for c in alone] == tokens[4:8]
    assert [c.tokens_T.tolist() for c in backwards] == tokens[8:] + tokens[4:8] + tokens[:4]


def test_weights_are_handed_over_once_per_change(policy, vllm):
    """Also when an optimizer changes them behind the back of their version counters."""
    model, rollout = policy.model, Vllm()
    for _ in range(3):
        sample(rollout, model)
    (llm,) = vllm
    assert len(llm.served.loads) == llm.resets == 1
    for fused in (False, True):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=fused)
        model(torch.tensor([[1, 2, 3]])).logits.logsumexp(-1).sum().backward()
        optimizer.step()
        sample(rollout, model)
        sample(rollout, model)
    assert len(llm.served.loads) == llm.resets == 3 and len(vllm) == 1
    assert llm.served.loads[-1].keys() == dict(model.named_parameters()).keys()
    for name, weight in model.named_parameters():
        assert torch.equal(llm.served.loads[-1][name], weight)


def test_two_rollouts_do_not_share_an_engine(policy, vllm):
    sample(Vllm(), policy.model), sample(Vllm(), tiny(seed=1).model)
    assert len(vllm) == 2


def test_neither_inference_mode_nor_autocast_reaches_vllm(policy):
    """Asserted inside the double: Lightning evaluates in inference mode, and trains under autocast."""
    rollout = Vllm()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        sample(rollout, policy.model)
        assert torch.is_inference_mode_enabled() and torch.is_autocast_enabled("cpu")


def test_a_weight_that_nobody_hands_over_is_an_error(policy, monkeypatch):
    monkeypatch.setattr(Served, "__init__", lambda self, init=Served.__init__: init(self, lacks=["fused"]))
    with pytest.raises(RuntimeError, match="got no weights for fused"):
        sample(Vllm(), policy.model)


def test_what_it_cannot_do_is_refused(policy, tmp_path):
    with pytest.raises(ValueError, match=r"rollout\.max_model_len=22.*23"):
        sample(Vllm(max_model_len=22), policy.model)
    policy.model.peft_config = {}
    with pytest.raises(ValueError, match=r"policy=lora.*rollout=decode"):
        sample(Vllm(), policy.model)
    with pytest.raises(ConfigError, match=r"top_p=0.9.*evaluation\.top_p"):
        build(config(*SMALL, "rollout=vllm", "top_p=0.9", f"run_folder={tmp_path}"))


def test_without_vllm_it_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "vllm")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'vllm and a CUDA GPU: pip install "dapo-lightning\[vllm\]"'):
        Vllm()


def test_the_config_has_the_defaults():
    written = OmegaConf.load(ROOT / "conf/rollout/vllm.yaml")
    assert {**written, "_target_": None} == {
        "_target_": None, **{name: getattr(Vllm(), name) for name in written if name != "_target_"},
    }  # fmt: skip


def test_a_run_recomputes_old_logps_and_evaluates_the_new_weights(tmp_path, vllm):
    folder = run(tmp_path / "run", "rollout=vllm", "correction=truncated", "num_steps=2", "evaluation.top_p=0.9")
    steps = [row for row in read_metrics(folder / "metrics.csv") if row["step"] > 0]
    assert all(0 < row["correction/mean"] <= 2 and row["sampling/logp_gap"] > 0 for row in steps)
    (llm,) = vllm
    loads = llm.served.loads
    assert len(loads) == 3  # before training, and after each step; the last evaluation has the weights of the last step
    trained = weights(folder)
    for name, weight in loads[-1].items():
        assert torch.equal(weight, trained[name])
