"""Rollout with vLLM: an engine in this process, on the GPU that trains."""

from __future__ import annotations

import copy
import importlib.util
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.rollout import Memory
from dapo_lightning.types import Completion, Generation


@dataclass(eq=False)
class Vllm:
    """vLLM, with the current weights of the policy. It has never run on a GPU; the tests use a fake engine.

    Its records differ from those of the other rollouts. Log-probs come from vLLM's kernels in their own precision; they
    are near those of a forward pass, which are computed afterwards and serve as the old ones (`correction=truncated`
    weighs the gap). They are taken at the sampling temperature but after top_p, so training requires top_p=1. vLLM does
    not report entropies: -log p of the sampled token, an unbiased estimate from one sample, replaces them.

    Each completion has its own seed, derived from its noise, so that it depends on its batch only through the rounding
    of vLLM's kernels. The engine starts with the first rollout and lives as long as this object.

    Args:
        gpu_memory_utilization: share of the GPU's memory for the engine; the rest is for training.
        max_model_len: tokens that a prompt and its completion may have; None: as many as the model allows.
        dtype: precision of the engine's weights.
        enforce_eager: work without CUDA graphs, which starts faster and generates more slowly.

    Raises:
        ValueError: if vLLM is not installed.
    """

    gpu_memory_utilization: float = 0.35
    max_model_len: int | None = None
    dtype: str = "bfloat16"
    enforce_eager: bool = False
    exact_logps: ClassVar[bool] = False
    memory: ClassVar[Memory] = Memory.ENGINE
    _engine: _Engine | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise ValueError(
                'rollout=vllm needs the package vllm and a CUDA GPU: pip install "dapo-lightning[vllm]", '
                "or use rollout=decode."
            )

    def __call__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        noise_PGT: Tensor,
        generation: Generation,
        end_tokens: Sequence[int],
    ) -> Iterator[list[tuple[Completion, ...]]]:
        """P tokenised prompts and their noise -> the G completions of each prompt, after all have ended.

        Raises:
            ValueError: for adapters, and if a completion might not fit into `max_model_len`.
        """
        num_completions, max_tokens = noise_PGT.shape[1:]
        self._check(model, max(map(len, prompts)) + max_tokens)
        with _neither_autocast_nor_inference(model):
            if self._engine is None:
                self._engine = _Engine(
                    model,
                    gpu_memory_utilization=self.gpu_memory_utilization,
                    max_model_len=self.max_model_len,
                    dtype=self.dtype,
                    enforce_eager=self.enforce_eager,
                )
            self._engine.load_weights(model)
            requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts for _ in range(num_completions)]
            sampling = [_sampling_params(noise_T, generation, end_tokens) for noise_T in noise_PGT.flatten(0, 1)]
            outputs = self._engine.llm.generate(requests, sampling, use_tqdm=False)
        rows = [_completion(output.outputs[0], end_tokens) for output in outputs]
        yield [tuple(rows[i : i + num_completions]) for i in range(0, len(rows), num_completions)]

    def _check(self, model: PreTrainedModel, num_tokens: int) -> None:
        if hasattr(model, "peft_config"):
            raise ValueError(
                "rollout=vllm takes whole models only: it does not receive the adapters of policy=lora. "
                "Use rollout=decode, or train all weights (policy=hub)."
            )
        if self.max_model_len is not None and num_tokens > self.max_model_len:
            raise ValueError(
                f"rollout.max_model_len={self.max_model_len}: a prompt and its completion may take {num_tokens} "
                "tokens. Raise it, or lower max_prompt_tokens or max_new_tokens."
            )


class _Engine:
    """A running engine and a fingerprint of the weights that it holds.

    It is built from the policy's configuration alone, with dummy weights; the weights themselves are loaded afterwards.
    Each rank has one on its own GPU: vLLM calls that "external_launcher" and expects the variables of torchrun.
    """

    def __init__(self, model: PreTrainedModel, **settings: object):
        import vllm

        config = copy.deepcopy(model.config)
        config.architectures = [type(model).__name__]  # absent in a model that was made from a configuration
        self._folder = TemporaryDirectory()
        config.save_pretrained(self._folder.name)
        ranks, device = Ranks.current(), model.get_input_embeddings().weight.device
        os.environ |= {"RANK": str(ranks.rank), "WORLD_SIZE": str(ranks.size), "LOCAL_RANK": str(device.index or 0)}
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(_free_port()))
        self.llm: Any = vllm.LLM(
            model=self._folder.name,
            skip_tokenizer_init=True,
            load_format="dummy",
            logprobs_mode="processed_logprobs",  # of softmax(logits / temperature), not of softmax(logits)
            distributed_executor_backend="external_launcher",
            **settings,
        )
        self._fingerprint: Tensor | None = None

    def load_weights(self, model: PreTrainedModel) -> None:
        """Copies the weights into the engine, unless it holds them, and clears the keys and values of the old ones."""
        fingerprint = _fingerprint(model)
        if self._fingerprint is not None and torch.equal(fingerprint, self._fingerprint):
            return
        weights = [(name, weight.detach()) for name, weight in model.named_parameters()]

        def load(served: nn.Module) -> None:
            missing = {name for name, _ in served.named_parameters()} - served.load_weights(weights)  # type: ignore[operator]
            if missing:
                raise RuntimeError(f"vLLM's {type(served).__name__} got no weights for {', '.join(sorted(missing))}.")

        self.llm.apply_model(load)
        self.llm.reset_prefix_cache()
        self._fingerprint = fingerprint


def _sampling_params(noise_T: Tensor, generation: Generation, end_tokens: Sequence[int]) -> Any:
    """The request for one completion, which only `end_tokens` end."""
    import vllm

    return vllm.SamplingParams(
        n=1,
        seed=int.from_bytes(noise_T[:2].numpy().tobytes(), "little"),  # below 2**63, as noise is not negative
        temperature=generation.temperature,
        top_p=generation.top_p,
        max_tokens=len(noise_T),
        stop_token_ids=list(end_tokens),
        ignore_eos=True,
        logprobs=0,  # those of the sampled token only
        detokenize=False,
    )


def _completion(output: Any, end_tokens: Sequence[int]) -> Completion:
    tokens = list(output.token_ids)  # including the end token
    logps = torch.tensor([found[token].logprob for token, found in zip(tokens, output.logprobs, strict=True)])
    return Completion(torch.tensor(tokens), logps, entropies_T=-logps, truncated=tokens[-1] not in end_tokens)


def _fingerprint(model: nn.Module) -> Tensor:
    """The bits of each weight, read as integers and summed: version counters miss updates by fused optimizers."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return torch.stack([weight.detach().view(integers[weight.element_size()]).sum() for weight in model.parameters()])


@contextmanager
def _neither_autocast_nor_inference(model: nn.Module) -> Iterator[None]:
    """Shields the engine from Lightning's autocast, and from the inference mode in which Lightning evaluates: tensors
    created in it could not be written to afterwards."""
    device_type = next(model.parameters()).device.type
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device_type, enabled=False):
        yield


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
