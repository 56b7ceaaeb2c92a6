"""Rollout with vLLM: an engine of its own, in this process, on the GPU that trains."""

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


class _Engine:
    """The engine, once it has been needed, and a fingerprint of the weights it holds."""

    def __init__(self) -> None:
        self.llm: Any = None
        self._holds: Tensor | None = None
        self._folder: TemporaryDirectory[str] | None = None

    def start(self, model: PreTrainedModel, **settings: object) -> None:
        """Builds it from the policy's configuration alone: the weights, dummies at first, are handed over later.

        Every rank has one on its own GPU. "external_launcher" is vLLM's name for that; it wants torchrun's variables.
        """
        import vllm

        config = copy.deepcopy(model.config)
        config.architectures = [type(model).__name__]  # a model made from a configuration has not noted it
        self._folder = TemporaryDirectory()
        config.save_pretrained(self._folder.name)
        ranks, device = Ranks.current(), model.get_input_embeddings().weight.device
        os.environ |= {"RANK": str(ranks.rank), "WORLD_SIZE": str(ranks.size), "LOCAL_RANK": str(device.index or 0)}
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(_free_port()))
        self.llm = vllm.LLM(
            model=self._folder.name,
            skip_tokenizer_init=True,
            load_format="dummy",
            logprobs_mode="processed_logprobs",  # of softmax(logits / temperature), not of softmax(logits)
            distributed_executor_backend="external_launcher",
            **settings,
        )

    def hand_over(self, weights_of: PreTrainedModel) -> None:
        """Copies the weights into the engine, unless it has them; keys and values of the old ones are forgotten."""
        fingerprint = _fingerprint(weights_of)
        if self._holds is not None and torch.equal(fingerprint, self._holds):
            return
        weights = [(name, weight.detach()) for name, weight in weights_of.named_parameters()]

        def load(served: nn.Module) -> None:
            missing = {name for name, _ in served.named_parameters()} - served.load_weights(weights)  # type: ignore[operator]
            if missing:
                raise RuntimeError(f"vLLM's {type(served).__name__} got no weights for {', '.join(sorted(missing))}.")

        self.llm.apply_model(load)
        self.llm.reset_prefix_cache()
        self._holds = fingerprint


@dataclass(frozen=True)
class Vllm:
    """vLLM, with the weights of the policy as it is now. Never yet run on a GPU: tested against a double.

    What is recorded differs from the other rollouts. Log-probs are those of vLLM's kernels in its own precision: near
    those of a forward pass, which are computed anew and serve as old ones (`correction=truncated` weighs the gap).
    They are taken at the sampling temperature, but after top_p has narrowed what is drawn, so training wants top_p=1.
    Entropies are unknown to vLLM: -log p of the token drawn stands in, their unbiased estimate from one sample.

    Every completion has a seed of its own, made of its noise: it depends on its batch only through the rounding of
    vLLM's kernels.

    Args:
        gpu_memory_utilization: share of the GPU's memory for the engine; the rest is for training.
        max_model_len: tokens of a prompt and its completion that there must be room for; None: all the model can take.
        dtype: precision of the engine's weights.
        enforce_eager: no CUDA graphs: starts faster, generates slower.

    Raises:
        ValueError: if vLLM is not installed.
    """

    gpu_memory_utilization: float = 0.35
    max_model_len: int | None = None
    dtype: str = "bfloat16"
    enforce_eager: bool = False
    exact_logps: ClassVar[bool] = False
    memory: ClassVar[Memory] = Memory.ENGINE
    _engine: _Engine = field(default_factory=_Engine, init=False, repr=False, compare=False)

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
        """P tokenised prompts and their noise -> the G completions of each prompt, when all have ended.

        Raises:
            ValueError: for adapters, and where a completion would find no room in `max_model_len`.
        """
        num_completions, max_tokens = noise_PGT.shape[1:]
        self._check(model, max(map(len, prompts)) + max_tokens)
        with _neither_training_nor_inference(model):
            if self._engine.llm is None:
                self._engine.start(
                    model,
                    gpu_memory_utilization=self.gpu_memory_utilization,
                    max_model_len=self.max_model_len,
                    dtype=self.dtype,
                    enforce_eager=self.enforce_eager,
                )
            self._engine.hand_over(weights_of=model)
            requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts for _ in range(num_completions)]
            sampling = [_sampling_params(noise_T, generation, end_tokens) for noise_T in noise_PGT.flatten(0, 1)]
            outputs = self._engine.llm.generate(requests, sampling, use_tqdm=False)
        rows = [_completion(output.outputs[0], end_tokens) for output in outputs]
        yield [tuple(rows[i : i + num_completions]) for i in range(0, len(rows), num_completions)]

    def _check(self, model: PreTrainedModel, num_tokens: int) -> None:
        if hasattr(model, "peft_config"):
            raise ValueError(
                "rollout=vllm takes whole models only: the weights of policy=lora are not handed over to it. "
                "Use rollout=decode, or train all weights (policy=hub)."
            )
        if self.max_model_len is not None and num_tokens > self.max_model_len:
            raise ValueError(
                f"rollout.max_model_len={self.max_model_len}: a prompt and its completion may take {num_tokens} "
                "tokens. Raise it, or lower max_prompt_tokens or max_new_tokens."
            )


def _sampling_params(noise_T: Tensor, generation: Generation, end_tokens: Sequence[int]) -> Any:
    """One request for one completion, which only `end_tokens` end."""
    import vllm

    return vllm.SamplingParams(
        n=1,
        seed=int.from_bytes(noise_T[:2].numpy().tobytes(), "little"),  # noise is not negative: below 2**63
        temperature=generation.temperature,
        top_p=generation.top_p,
        max_tokens=len(noise_T),
        stop_token_ids=list(end_tokens),
        ignore_eos=True,
        logprobs=0,  # of the token drawn, and of no other
        detokenize=False,
    )


def _completion(output: Any, end_tokens: Sequence[int]) -> Completion:
    tokens = list(output.token_ids)  # with the end token
    logps = torch.tensor([found[token].logprob for token, found in zip(tokens, output.logprobs, strict=True)])
    return Completion(torch.tensor(tokens), logps, entropies_T=-logps, truncated=tokens[-1] not in end_tokens)


def _fingerprint(model: nn.Module) -> Tensor:
    """The bits of each weight, read as whole numbers and summed: version counters miss what fused optimizers do."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return torch.stack([weight.detach().view(whole[weight.element_size()]).sum() for weight in model.parameters()])


@contextmanager
def _neither_training_nor_inference(model: nn.Module) -> Iterator[None]:
    """Lightning's autocast is not the engine's, and tensors made in inference mode, in which Lightning evaluates,
    could not be written to afterwards."""
    device_type = next(model.parameters()).device.type
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device_type, enabled=False):
        yield


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
