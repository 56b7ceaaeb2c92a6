"""The reference rollout: Hugging Face's own `generate`, slower and as simple as possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)

from dapo_lightning.forward.logprobs import left_pad
from dapo_lightning.forward.ways import ways_of
from dapo_lightning.rollout import Memory
from dapo_lightning.rollout.sample import sample_tokens
from dapo_lightning.rollout.stop import ends_at
from dapo_lightning.types import Completion, Generation


@dataclass(frozen=True)
class HFGenerate:
    """`model.generate` on all rows until the longest has ended; the same noise gives the same tokens as `Decode`."""

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
        """P tokenised prompts and their noise -> the G completions of each prompt, all generated together.

        Raises:
            ValueError: for models whose prompts must not be padded, or whose cache cannot be continued, because
                `generate` does both.
        """
        ways = ways_of(model)
        if not (ways.pads_prompts and ways.continues):
            raise ValueError(
                f"rollout=transformers: the log-probs of {type(model).__name__} would differ from those of a forward "
                "pass, because `generate` pads its prompts and continues its cache. Use rollout=decode."
            )
        device = model.get_input_embeddings().weight.device
        num_completions, max_tokens = noise_PGT.shape[1:]
        prompt_PS, mask_PS = left_pad(prompts, device)
        chosen = _ChooseWithNoise(noise_PGT.flatten(0, 1).to(device), generation)
        with _neutral_generation_config(model):
            tokens_BT = model.generate(
                input_ids=prompt_PS.repeat_interleave(num_completions, dim=0),
                attention_mask=mask_PS.repeat_interleave(num_completions, dim=0),
                do_sample=False,  # the logits processor samples and leaves a single token to choose
                max_new_tokens=max_tokens,
                eos_token_id=list(end_tokens),
                pad_token_id=end_tokens[0],
                logits_processor=LogitsProcessorList([chosen]),
                stopping_criteria=_criteria(generation, prompt_PS.shape[1]),
            )[:, prompt_PS.shape[1] :].cpu()
        logps_BT, entropies_BT = (torch.stack(columns, dim=1).cpu() for columns in (chosen.logps, chosen.entropies))
        rows = [
            _completion(*row, end_tokens, generation) for row in zip(tokens_BT, logps_BT, entropies_BT, strict=True)
        ]
        yield [tuple(rows[i : i + num_completions]) for i in range(0, len(rows), num_completions)]


@contextmanager
def _neutral_generation_config(model: PreTrainedModel) -> Iterator[None]:
    """Hides the model's own generation config, which may contain penalties that the update does not apply. For a model
    with adapters, it belongs to the base model."""
    with ExitStack() as undo:
        for owner in model.modules():
            if isinstance(own := vars(owner).get("generation_config"), GenerationConfig):
                undo.callback(setattr, owner, "generation_config", own)
                owner.generation_config = GenerationConfig()
        yield


class _ChooseWithNoise(LogitsProcessor):
    """Samples one token per row with the given noise and masks every other token."""

    def __init__(self, noise_BT: Tensor, generation: Generation):
        self.noise_BT, self.generation = noise_BT, generation
        self.logps: list[Tensor] = []
        self.entropies: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise_B = self.noise_BT[:, len(self.logps)]
        tokens_B, logps_B, entropies_B = sample_tokens(
            scores,
            noise_B,
            self.generation.temperature,
            self.generation.top_p,
            self.generation.top_k,
            self.generation.min_p,
        )
        self.logps.append(logps_B)
        self.entropies.append(entropies_B)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens_B[:, None], 0.0)


def _criteria(generation: Generation, prompt_length: int) -> StoppingCriteriaList:
    stop = generation.stop
    if stop is None:
        return StoppingCriteriaList()
    return StoppingCriteriaList([lambda tokens, scores, **_: stop(tokens[:, prompt_length:])])


def _completion(
    tokens_T: Tensor, logps_T: Tensor, entropies_T: Tensor, end_tokens: Sequence[int], generation: Generation
) -> Completion:
    n, has_ended = ends_at(tokens_T, end_tokens, generation)
    return Completion(tokens_T[:n].clone(), logps_T[:n].clone(), entropies_T[:n].clone(), truncated=not has_ended)
