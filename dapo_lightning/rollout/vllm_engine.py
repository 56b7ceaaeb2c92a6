"""A vLLM engine in this process, which serves the current weights of the policy."""

from __future__ import annotations

import copy
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.distributed.sharding import full_tensor
from dapo_lightning.distributed.weights import plain_weights
from dapo_lightning.forward.logprobs import completion_logps

CHECKED_TOKENS = 8
MAX_LOGP_GAP = {"float32": 0.01, "bfloat16": 0.25, "float16": 0.1}  # mean over the checked tokens, in nats


class WeightsNotServedError(RuntimeError):
    """The engine does not compute the same log-probs as the policy."""


class Engine:
    """A running engine and a fingerprint of the weights that it holds.

    It is built only from the policy's configuration, with dummy weights; the real weights are transferred afterwards.
    Each rank has its own engine on its own device. vLLM calls this "external_launcher" and expects the environment
    variables of torchrun.

    Args:
        max_logp_gap: see `Vllm`.
        settings: arguments of `vllm.LLM`.
    """

    def __init__(self, model: PreTrainedModel, dtype: str, max_logp_gap: float | None, **settings: object):
        if model.get_input_embeddings().weight.device.type == "cpu":
            settings.setdefault("enable_chunked_prefill", False)  # it would make generators on a CPU lose their state
        self._folder = TemporaryDirectory()
        _served_config(model).save_pretrained(self._folder.name)
        with _launched_as_a_rank(model):
            import vllm

            self.llm: Any = vllm.LLM(
                model=self._folder.name,
                skip_tokenizer_init=True,
                load_format="dummy",
                logprobs_mode="processed_logprobs",  # of softmax(logits / temperature), not of softmax(logits)
                distributed_executor_backend="external_launcher",
                dtype=dtype,
                **settings,
            )
        self.llm.apply_model(_refuse_missing_weights)
        self._max_gap = MAX_LOGP_GAP[dtype] if max_logp_gap is None else max_logp_gap
        self._fingerprint: Tensor | None = None

    def load_weights(self, model: PreTrainedModel, prompt: Sequence[int]) -> None:
        """Transfers the weights to the engine unless it already has them, and clears keys and values of old weights.

        Raises:
            WeightsNotServedError: if a weight is missing, or if the engine's log-probs of a few tokens after the prompt
                are not those of the policy.
        """
        fingerprint = _fingerprint(model)
        if self._fingerprint is not None and torch.equal(fingerprint, self._fingerprint):
            return
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": served_weights(model)})
        self.llm.reset_prefix_cache()
        self._check(model, prompt)
        self._fingerprint = fingerprint

    def _check(self, model: PreTrainedModel, prompt: Sequence[int]) -> None:
        import vllm

        sampling = vllm.SamplingParams(seed=0, max_tokens=CHECKED_TOKENS, ignore_eos=True, logprobs=0, detokenize=False)
        (output,) = self.llm.generate([{"prompt_token_ids": list(prompt)}], [sampling], use_tqdm=False)
        tokens_T, served_T = sampled(output.outputs[0])
        logps_T = completion_logps(model, [prompt], [tokens_T], temperature=1.0)[0][0].cpu()
        gap = float((logps_T - served_T).abs().mean())
        if not gap <= self._max_gap:  # also NaN
            raise WeightsNotServedError(
                f"rollout=vllm: after the transfer of weights, the log-probs of {len(tokens_T)} tokens differ from the "
                f"policy's by {gap:.2g} nats on average; rollout.max_logp_gap allows {self._max_gap:.2g}. "
                f"{self._worst(model)}Use rollout=decode, or another version of vLLM."
            )

    def _worst(self, model: PreTrainedModel) -> str:
        """Returns a sentence that names the served weight that differs the most, among those that vLLM does not
        change."""
        ours = dict(served_weights(model))

        def distances(served: nn.Module) -> dict[str, float]:
            return {
                name: float((weight.float() - ours[name].float()).norm() / ours[name].float().norm())
                for name, weight in served.named_parameters()
                if name in ours and weight.shape == ours[name].shape
            }

        (found,) = self.llm.apply_model(distances)
        worst = max(found, key=found.__getitem__, default=None)
        return "" if worst is None else f"Of the comparable weights, {worst} differs the most ({found[worst]:.2g}). "


def sampled(output: Any) -> tuple[Tensor, Tensor]:
    """Returns the tokens [T] of a completion by vLLM, including the end token, and their log-probs [T]."""
    tokens = list(output.token_ids)
    logps = [found[token].logprob for token, found in zip(tokens, output.logprobs, strict=True)]
    return torch.tensor(tokens), torch.tensor(logps)


def served_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yields the weights of the policy with the names under which it is saved, each gathered when it is requested.
    Tied weights appear under both of their names, because vLLM would not load the second one otherwise."""
    return ((name, full_tensor(weight)) for name, weight in plain_weights(model, with_ties=True))


def _served_config(model: PreTrainedModel) -> Any:
    plain = model.get_base_model() if hasattr(model, "peft_config") else model
    config = copy.deepcopy(plain.config)
    config.architectures = [type(plain).__name__]  # absent in a model that was created from a configuration
    config.tie_word_embeddings = False
    return config


@contextmanager
def _launched_as_a_rank(model: PreTrainedModel) -> Iterator[None]:
    """Sets the environment variables of torchrun within the context, and makes vLLM run its engine in this process."""
    ranks, device = Ranks.current(), model.get_input_embeddings().weight.device
    before = dict(os.environ)
    launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())} | before
    launched |= {"RANK": str(ranks.rank), "WORLD_SIZE": str(ranks.size), "LOCAL_RANK": str(device.index or 0)}
    os.environ |= launched | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    try:
        yield
    finally:
        for name in launched.keys() - before.keys():
            del os.environ[name]
        os.environ |= before


def _refuse_missing_weights(served: nn.Module) -> None:
    """Makes vLLM's model raise an error if it does not receive all its weights, because `reload_weights` would keep
    dummy values."""
    load: Any = served.load_weights

    def load_all(weights: Iterator[tuple[str, Tensor]]) -> set[str]:
        expected = {name for name, _ in served.named_parameters()}
        loaded = load(weights)
        missing = expected - set(expected if loaded is None else loaded)
        if missing:
            raise WeightsNotServedError(
                f"rollout=vllm: {type(served).__name__} did not receive weights for {', '.join(sorted(missing))}. "
                "Use rollout=decode."
            )
        return loaded

    served.load_weights = load_all  # type: ignore[assignment]


def _fingerprint(model: nn.Module) -> Tensor:
    """Returns the sum of the bits of each weight, read as integers. Version counters would miss updates by fused
    optimizers."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return torch.stack([weight.detach().view(integers[weight.element_size()]).sum() for weight in model.parameters()])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
