"""The reference rollout: Hugging Face's own `generate`, slower, and as obvious as can be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from dapo_lightning.forward.logprobs import left_pad
from dapo_lightning.rollout import Memory
from dapo_lightning.rollout.sample import sample_tokens
from dapo_lightning.types import Completion, Generation


@dataclass(frozen=True)
class Transformers:
    """`model.generate` on every row until the longest has ended; the same noise gives the same tokens as `Decode`."""

    exact_logps: ClassVar[bool] = True
    memory: ClassVar[Memory] = Memory.GENERATE

    @torch.no_grad()
    def __call__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        noise_PGT: Tensor,
        generation: Generation,
        end_tokens: Sequence[int],
    ) -> Iterator[list[tuple[Completion, ...]]]:
        """P tokenised prompts and their noise -> the G completions of each prompt."""
        device = model.get_input_embeddings().weight.device
        num_completions, max_tokens = noise_PGT.shape[1:]
        prompt_PS, mask_PS = left_pad(prompts, device)
        sampler = _Sampler(noise_PGT.flatten(0, 1).to(device), generation)
        with _neutral_generation_config(model):
            tokens_BT = model.generate(
                input_ids=prompt_PS.repeat_interleave(num_completions, dim=0),
                attention_mask=mask_PS.repeat_interleave(num_completions, dim=0),
                do_sample=False,  # the processor below has sampled: it leaves one token to choose
                max_new_tokens=max_tokens,
                eos_token_id=list(end_tokens),
                pad_token_id=end_tokens[0],
                logits_processor=LogitsProcessorList([sampler]),
            )[:, prompt_PS.shape[1] :].cpu()
        rows = [
            _completion(*row, end_tokens)
            for row in zip(tokens_BT, sampler.stacked("logps"), sampler.stacked("entropies"), strict=True)
        ]
        yield [tuple(rows[i : i + num_completions]) for i in range(0, len(rows), num_completions)]


@contextmanager
def _neutral_generation_config(model: PreTrainedModel) -> Iterator[None]:
    """The model's own may carry penalties that the update knows nothing of; with adapters it is the model inside that
    has one."""
    owners = [m for m in model.modules() if isinstance(vars(m).get("generation_config"), GenerationConfig)]
    own = [owner.generation_config for owner in owners]
    try:
        for owner in owners:
            owner.generation_config = GenerationConfig()
        yield
    finally:
        for owner, config in zip(owners, own, strict=True):
            owner.generation_config = config


class _Sampler(LogitsProcessor):
    """Draws from the logits with the given noise and masks every other token."""

    def __init__(self, noise_BT: Tensor, generation: Generation):
        self.noise_BT, self.generation = noise_BT, generation
        self.logps: list[Tensor] = []
        self.entropies: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise_B = self.noise_BT[:, len(self.logps)]
        tokens_B, logps_B, entropies_B = sample_tokens(
            scores, noise_B, self.generation.temperature, self.generation.top_p
        )
        self.logps.append(logps_B)
        self.entropies.append(entropies_B)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens_B[:, None], 0.0)

    def stacked(self, name: str) -> Tensor:
        return torch.stack(getattr(self, name), dim=1).cpu()


def _completion(tokens_T: Tensor, logps_T: Tensor, entropies_T: Tensor, end_tokens: Sequence[int]) -> Completion:
    ends = torch.isin(tokens_T, torch.tensor(list(end_tokens))).nonzero()
    length = int(ends[0]) + 1 if len(ends) else len(tokens_T)
    return Completion(
        tokens_T=tokens_T[:length].clone(),
        logps_T=logps_T[:length].clone(),
        entropies_T=entropies_T[:length].clone(),
        truncated=not len(ends),
    )
