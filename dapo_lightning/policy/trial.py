"""Finds out, when a policy is loaded, which ways of running it give the correct log-probs.

The reference is a plain forward pass over each single row with the attention with which the model was loaded: no cache,
no padding, no shared prompts. Sampling and the update are compared with this reference on a miniature of the model
(`dapo_lightning.policy.miniature`). Rows of the trial therefore exceed every limit of the configuration that rows of
the run may exceed, and the trial takes about a second for a model of any size. It is more reliable than a list of
models.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dapo_lightning.forward.layout import SHARED_PROMPT, attention_of
from dapo_lightning.forward.logprobs import completion_logps, right_pad
from dapo_lightning.forward.probe import TOLERANCE as PROBED
from dapo_lightning.forward.probe import try_shared_prompts
from dapo_lightning.forward.ways import Ways, set_ways
from dapo_lightning.policy import PolicyError
from dapo_lightning.policy.limits import limits_within
from dapo_lightning.policy.miniature import miniature
from dapo_lightning.rollout.decode import Decode
from dapo_lightning.rollout.noise import uniform_noise
from dapo_lightning.types import Completion, Generation

log = logging.getLogger(__name__)

TOLERANCE = 1e-3  # of log-probs in float32
_LADDER = (Ways(), Ways(continues=False), Ways(pads_prompts=False), Ways(pads_prompts=False, continues=False))
_PROMPTS = (tuple(range(10, 19)), tuple(range(40, 45)), (60,) * 7)  # the last one repeats one token
_NUM_COMPLETIONS, _NUM_TOKENS, _END_TOKENS = 2, 16, tuple(range(4, 12))


def choose_ways(model: PreTrainedModel, reach: int | None, may_share: bool) -> None:
    """Chooses the fastest way of running the model that gives the correct log-probs, and logs what it costs.

    Args:
        reach: the maximum number of tokens of a prompt and its completion together; None if it is not known.
        may_share: whether prompts may be shared, which replaces the attention of the model.

    Raises:
        PolicyError: if no way gives the correct log-probs.
    """
    name, limits = type(model).__name__, limits_within(model.config.get_text_config(), reach)
    trial = Trial.on_miniature(model, reach)
    if trial is None:
        log.info("%s: no small model with the same configuration can be built, so the model itself is tried with short "
                 "rows, and prompts are not shared if rows may exceed its limits", name)  # fmt: skip
        trial, may_share = Trial(model, PROBED[model.dtype], backward=False), may_share and not limits
    if may_share:
        why = trial.wrong(SHARED_PROMPT, Ways())
        if not why:
            if model.device.type == "meta":
                model.set_attn_implementation(SHARED_PROMPT)
            else:
                try_shared_prompts(model)
            return
        log.info("%s cannot share prompts (%s): each completion of a group computes the prompt again, and rows are "
                 "padded.%s", name, why, _shorter_rows_share(model, limits))  # fmt: skip
    reasons = {}
    for ways in _LADDER:
        reasons[ways] = trial.wrong(attention_of(trial.model), ways)
        if not reasons[ways]:
            break
    else:
        remedy = ". Choose another model, or another policy.attention"
        if limits:
            remedy = (
                f" on rows longer than {min(limits.values())} tokens ({', '.join(limits)}): lower max_prompt_tokens"
            )
            remedy += " and max_new_tokens"
        raise PolicyError(
            f"{name} with policy.attention={attention_of(model)} cannot be trained exactly, because "
            f"{trial.depends_on_later_tokens() or reasons[Ways()]}{remedy}."
        )
    set_ways(model, ways)
    if not ways.pads_prompts:
        log.warning("%s: padding changes its log-probs, so only rows with equally long prompts run together", name)
    if not ways.continues:
        log.warning("%s: decoding reads all tokens again at each step, because its cache cannot be used (%s)", name,
                    reasons[Ways(ways.pads_prompts)])  # fmt: skip


def _shorter_rows_share(model: PreTrainedModel, limits: dict[str, int]) -> str:
    """Returns the remedy if shorter rows can share prompts, or an empty text."""
    key, length = next(iter(limits.items()), ("", 0))
    shorter = Trial.on_miniature(model, length) if key else None
    if shorter is None or shorter.wrong(SHARED_PROMPT, Ways()):
        return ""
    return f" It can with at most {length} tokens (its {key}) for prompt and completion: see max_prompt_tokens."


@dataclass(frozen=True)
class Trial:
    """Tries ways of running a model.

    Args:
        tolerance: the largest permitted difference of log-probs.
        backward: whether gradients are computed as well, which must be finite.
    """

    model: PreTrainedModel
    tolerance: float = TOLERANCE
    backward: bool = True

    @staticmethod
    def on_miniature(model: PreTrainedModel, reach: int | None) -> Trial | None:
        """Returns a trial on a miniature of the model, or None if no miniature can be built and run."""
        try:
            trial = Trial(miniature(model, reach))
            trial.truth(_PROMPTS[0], torch.tensor(_PROMPTS[1]))
        except Exception:  # configurations fail in unforeseeable ways
            return None
        return trial

    def wrong(self, attention: str, ways: Ways) -> str:
        """Returns why sampling or the update does not agree with the reference, or an empty text if both agree."""
        own = attention_of(self.model)
        try:
            self.model.set_attn_implementation(attention)
            set_ways(self.model, ways)
            prompts, completions = self._sampled()
            updated = self._updated(prompts, completions, ways.pads_prompts)
        except Exception as error:
            return " ".join(str(error).split())[:200] or type(error).__name__
        finally:
            self.model.set_attn_implementation(own)
        pairs = zip(prompts, completions, strict=True)
        truth = right_pad([self.truth(prompt, completion.tokens_T) for prompt, completion in pairs], updated.device)
        sampled = right_pad([completion.logps_T for completion in completions], updated.device)
        for what, found in (("sampling", sampled), ("the update", updated)):
            if not (difference := float((found - truth).abs().max())) <= self.tolerance:
                return f"its log-probs of {what} differ by {difference:.2g} from those of a forward pass"
        return ""

    @torch.no_grad()
    def truth(self, prompt: Sequence[int], completion_T: Tensor) -> Tensor:
        """Returns the log-probs of a completion by a plain forward pass, [T]."""
        row = torch.tensor([*prompt, *completion_T.tolist()])
        logps = self.model(input_ids=row[None], use_cache=False).logits[0].float().log_softmax(dim=1)
        return logps[len(prompt) - 1 : -1].gather(1, completion_T[:, None])[:, 0]

    def depends_on_later_tokens(self) -> str:
        """Returns a reason if the log-probs of a token depend on the tokens after it, or an empty text."""
        tokens_T = torch.arange(20, 20 + _NUM_TOKENS)
        whole_T, part_T = (self.truth(_PROMPTS[2], tokens_T[:n]) for n in (_NUM_TOKENS, _NUM_TOKENS // 2))
        changes = float((whole_T[: len(part_T)] - part_T).abs().max()) > self.tolerance
        return "its log-probs of a token depend on the tokens after it" if changes else ""

    def _sampled(self) -> tuple[list[Sequence[int]], list[Completion]]:
        noise = uniform_noise(0, "trial", range(len(_PROMPTS)), _NUM_COMPLETIONS, _NUM_TOKENS)
        batches = Decode()(self.model, _PROMPTS, noise, Generation(_NUM_TOKENS), _END_TOKENS)
        groups = [group for batch in batches for group in batch]
        return [p for p in _PROMPTS for _ in range(_NUM_COMPLETIONS)], [c for group in groups for c in group]

    def _updated(self, prompts: list[Sequence[int]], completions: list[Completion], padded: bool) -> Tensor:
        """Returns the log-probs as the update computes them."""
        parts = [slice(0, len(prompts))] if padded else [slice(i, i + 1) for i in range(len(prompts))]
        rows: list[Tensor] = []
        for part in parts:
            tokens = [completion.tokens_T for completion in completions[part]]
            with torch.set_grad_enabled(self.backward):
                logps_BT, _ = completion_logps(self.model, prompts[part], tokens, temperature=1.0)
            if self.backward:
                self.model.zero_grad()
                logps_BT.sum().backward()
                if not all(w.grad is None or bool(w.grad.isfinite().all()) for w in self.model.parameters()):
                    raise ValueError("the gradients of the update are not finite")
            rows += [logps_T[: len(t)] for logps_T, t in zip(logps_BT.detach(), tokens, strict=True)]
        return right_pad(rows, rows[0].device)
