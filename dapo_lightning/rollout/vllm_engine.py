"""A vLLM engine in the processes of a run, which serves the current weights of the policy."""

from __future__ import annotations

import copy
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.distributed.sharding import class_name, full_tensor, reshard
from dapo_lightning.distributed.weights import plain_weights, saved_weights
from dapo_lightning.forward.logprobs import completion_logps

log = logging.getLogger(__name__)

CHECKED_TOKENS = 8
MAX_LOGP_GAP = {"float32": 0.01, "bfloat16": 0.25, "float16": 0.1}  # mean over the checked tokens, in nats

Request = tuple[dict[str, list[int]], Any]
"""A prompt for vLLM and its `SamplingParams`."""


class WeightsNotServedError(RuntimeError):
    """The engine does not compute the same log-probs as the policy."""


class Engine:
    """A running engine, or this rank's part of an engine that several ranks share.

    It is built only from the policy's configuration, with dummy weights; the real weights are transferred afterwards.
    vLLM calls this "external_launcher" and expects the environment variables of torchrun. Consecutive ranks share an
    engine: all of them give it the same requests, schedule them in the same way and receive all results.

    Args:
        max_logp_gap: see `Vllm`.
        settings: arguments of `vllm.LLM`, such as `tensor_parallel_size`.
    """

    def __init__(self, model: PreTrainedModel, dtype: str, max_logp_gap: float | None, **settings: object):
        self._device_type = model.get_input_embeddings().weight.device.type
        if self._device_type == "cpu":
            settings.setdefault("enable_chunked_prefill", False)  # it would make generators on a CPU lose their state
        self._folder = TemporaryDirectory()
        _served_config(model).save_pretrained(self._folder.name)
        with _launched_as_a_rank(model), _neither_autocast_nor_inference(self._device_type):
            import vllm
            from vllm.distributed.parallel_state import get_tp_group
            from vllm.platforms import current_platform

            self._sleeps = settings.setdefault("enable_sleep_mode", current_platform.is_sleep_mode_available())
            self.llm: Any = vllm.LLM(
                model=self._folder.name,
                skip_tokenizer_init=True,
                load_format="dummy",
                logprobs_mode="processed_logprobs",  # of softmax(logits / temperature), not of softmax(logits)
                distributed_executor_backend="external_launcher",
                dtype=dtype,
                **settings,
            )
            group = get_tp_group()
        self._sharing = Ranks(group.rank_in_group, group.world_size, group.cpu_group)
        self.llm.apply_model(_refuse_missing_weights)
        self._max_gap = MAX_LOGP_GAP[dtype] if max_logp_gap is None else max_logp_gap
        self._dtype = getattr(torch, dtype)
        if not self._sleeps and Ranks.current().rank == 0:
            log.warning("rollout=vllm: without vLLM's sleep mode, the engine keeps its memory during updates")

    def generate(self, requests: Sequence[Request] | None) -> list[Any] | None:
        """Returns the completions of this rank's requests, in order, once those of all ranks that share the engine have
        ended. These ranks call it together; one that needs nothing more passes None.

        Returns:
            vLLM's `CompletionOutput`s; None if none of the ranks needs anything more.

        Raises:
            RuntimeError: if the ranks have sampled different tokens.
        """
        parts = self._sharing.gather([requests])
        if all(part is None for part in parts):
            return None
        wanted = [request for part in parts for request in part or ()]
        with _neither_autocast_nor_inference(self._device_type):
            found = self.llm.generate([prompt for prompt, _ in wanted], [how for _, how in wanted], use_tqdm=False)
        outputs = [output.outputs[0] for output in found]
        if len(set(self._sharing.gather([_digest(outputs)]))) > 1:
            raise RuntimeError("rollout=vllm: ranks that share an engine have sampled different tokens.")
        start = sum(len(part or ()) for part in parts[: self._sharing.rank])
        return outputs[start : start + len(requests or ())]

    def sleep(self) -> None:
        """Frees the memory of weights and KV cache until the next transfer, if the platform is able to."""
        if self._sleeps:
            self.llm.sleep(level=2)

    def load_weights(self, model: PreTrainedModel) -> None:
        """Transfers the weights to the engine, one after the other, and wakes it up. A collective of all ranks.

        Raises:
            WeightsNotServedError: if a weight is missing, or if the engine's log-probs of a few tokens are not those of
                the policy.
        """
        with _neither_autocast_nor_inference(self._device_type):
            sleeps = self.llm.llm_engine.is_sleeping()
            if sleeps:
                torch.cuda.empty_cache()  # torch would otherwise keep what the update has freed
                self.llm.wake_up(["weights"])
            if self._device_type == "cpu":
                self.llm.apply_model(_forget_expert_kernels)
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": served_weights(model, self._dtype)})
            if sleeps:
                self.llm.wake_up(["kv_cache"])
            self.llm.reset_prefix_cache()
            self._check(model)

    def _check(self, model: PreTrainedModel) -> None:
        import vllm

        prompt = torch.linspace(0, model.config.vocab_size - 1, CHECKED_TOKENS).long().tolist()
        sampling = vllm.SamplingParams(seed=0, max_tokens=CHECKED_TOKENS, ignore_eos=True, logprobs=0, detokenize=False)
        (output,) = self.llm.generate([{"prompt_token_ids": prompt}], [sampling], use_tqdm=False)
        tokens_T, served_T = sampled(output.outputs[0])
        logps_T = completion_logps(model, [prompt], [tokens_T], temperature=1.0)[0][0].cpu()
        reshard(model)
        gaps = Ranks.current().gather([float((logps_T - served_T).abs().mean())])
        wrong = [gap for gap in gaps if not gap <= self._max_gap]  # also NaN
        if wrong:
            raise WeightsNotServedError(
                f"rollout=vllm: after the transfer of weights, the log-probs of {len(tokens_T)} tokens differ from the "
                f"policy's by {wrong[0]:.2g} nats on average; rollout.max_logp_gap allows {self._max_gap:.2g}. "
                f"{self._worst(model)}Use rollout=decode, or another version of vLLM."
            )

    def _worst(self, model: PreTrainedModel) -> str:
        """Returns a sentence that names the served weight that differs the most, among those that vLLM neither changes
        nor divides."""

        def distances(served: nn.Module) -> dict[str, float]:
            own = dict(served.named_parameters())
            return {
                name: float((own[name].float() - ours.float()).norm() / ours.float().norm())
                for name, ours in served_weights(model, self._dtype)
                if name in own and own[name].shape == ours.shape
            }

        (found,) = self.llm.apply_model(distances)
        worst = max(found, key=found.__getitem__, default=None)
        return "" if worst is None else f"Of the comparable weights, {worst} differs the most ({found[worst]:.2g}). "


def sampled(output: Any) -> tuple[Tensor, Tensor]:
    """Returns the tokens [T] of a completion by vLLM, including the end token, and their log-probs [T]."""
    tokens = list(output.token_ids)
    logps = [found[token].logprob for token, found in zip(tokens, output.logprobs, strict=True)]
    return torch.tensor(tokens), torch.tensor(logps)


def served_weights(model: PreTrainedModel, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yields the weights of the policy with the names under which it is saved, each gathered when it is requested.
    Matrices are converted before they are gathered if the engine's type is smaller. Tied weights appear under both of
    their names, because vLLM would not load the second one otherwise. For sharded models, this is a collective."""

    def whole(weight: Tensor) -> Tensor:
        is_smaller = weight.is_floating_point() and weight.ndim > 1 and dtype.itemsize < weight.element_size()
        return full_tensor(weight.to(dtype) if is_smaller else weight)

    return saved_weights(
        _without_adapters(model), ((name, whole(weight)) for name, weight in plain_weights(model, with_ties=True))
    )


def _digest(outputs: Sequence[Any]) -> int:
    return crc32(torch.tensor([token for output in outputs for token in output.token_ids]).numpy().tobytes())


def _without_adapters(model: PreTrainedModel) -> PreTrainedModel:
    return model.get_base_model() if hasattr(model, "peft_config") else model


def _served_config(model: PreTrainedModel) -> Any:
    plain = _without_adapters(model)
    config = copy.deepcopy(plain.config)
    config.architectures = [class_name(plain)]  # absent in a model that was created from a configuration
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


@contextmanager
def _neither_autocast_nor_inference(device_type: str) -> Iterator[None]:
    """Shields the engine from Lightning's autocast, and from the inference mode in which Lightning evaluates: tensors
    created in it could not be written to afterwards."""
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(device_type, enabled=False):
        yield


def _refuse_missing_weights(served: nn.Module) -> None:
    """Makes vLLM's model raise an error if it does not receive all its weights, because `reload_weights` would keep
    dummy values."""
    load: Any = served.load_weights

    def load_all(weights: Iterator[tuple[str, Tensor]]) -> set[str]:
        expected = {_as_reported(name) for name, _ in served.named_parameters()}
        loaded = load(weights)
        missing = expected - set(expected if loaded is None else map(_as_reported, loaded))
        if missing:
            raise WeightsNotServedError(
                f"rollout=vllm: {type(served).__name__} did not receive weights for {', '.join(sorted(missing))}. "
                "Use rollout=decode."
            )
        return loaded

    served.load_weights = load_all  # type: ignore[assignment]


def _forget_expert_kernels(served: nn.Module) -> None:
    """Makes vLLM pack the weights of experts again. On CPUs, it does so only when it builds their kernel (0.30)."""
    for layer in served.modules():
        method: Any = getattr(layer, "quant_method", None)
        if hasattr(method, "moe_kernel"):
            method.moe_kernel = None


def _as_reported(name: str) -> str:
    """The name of a weight without the module of the experts, which vLLM omits where it reports what it has loaded."""
    return name.replace(".routed_experts.", ".")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
