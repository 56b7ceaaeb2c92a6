"""Rows of one micro-batch -> their share of the loss, and what happened to their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.algorithm.kl import k3
from dapo_lightning.algorithm.loss import weighted_sum
from dapo_lightning.forward.logprobs import completion_logps, right_pad
from dapo_lightning.step.experience import Row


@dataclass
class TokenSums:
    """Sums over the tokens of one or more micro-batches; `ratio_max` is a maximum."""

    tokens: float = 0.0
    loss: float = 0.0
    ratio: float = 0.0
    ratio_max: float = 0.0
    clipped_above: float = 0.0
    clipped_below: float = 0.0
    probability_clipped_above: float = 0.0
    kl_old: float = 0.0
    kl_reference: float = 0.0
    sampling_gap: float = 0.0
    correction: float = 0.0
    correction_capped: float = 0.0

    def __add__(self, other: TokenSums) -> TokenSums:
        total = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return TokenSums(**total | {"ratio_max": max(self.ratio_max, other.ratio_max)})


def surrogate_loss(
    model: PreTrainedModel, rows: Sequence[Row], algorithm: Algorithm, temperature: float
) -> tuple[Tensor, TokenSums]:
    """- sum_b w_b sum_t (correction_bt objective_bt - kl_bt), Eq. 8, over the given rows only.

    Log-probs are computed at the sampling temperature: the ratio compares the policies that (would have) sampled.
    """
    logps_BT, mask_BT = completion_logps(
        model, [row.prompt_tokens for row in rows], [row.completion.tokens for row in rows], temperature
    )
    device = logps_BT.device
    old_BT = _padded([row.old_logps for row in rows], device)
    ratio_BT = (logps_BT - old_BT).exp()
    advantages_B = torch.tensor([row.advantage for row in rows], device=device)
    weights_B = torch.tensor([row.weight for row in rows], device=device)
    objective_BT = algorithm.clip.objective(ratio_BT, advantages_B)
    sampled_BT = _padded([row.completion.logps for row in rows], device)
    if algorithm.correction.reweights:
        objective_BT = objective_BT * algorithm.correction.weights(old_BT, sampled_BT)
    reference_BT = None
    if algorithm.kl.needs_reference:
        reference_BT = _padded([row.reference_logps for row in rows], device)
        objective_BT = objective_BT - algorithm.kl.penalty(logps_BT, reference_BT)
    loss = weighted_sum(objective_BT, mask_BT, weights_B)

    with torch.no_grad():
        counted_BT = mask_BT & (weights_B > 0)[:, None]  # placeholders are nobody's tokens
        above_BT = algorithm.clip.clipped_above(ratio_BT, advantages_B) & counted_BT
        below_BT = algorithm.clip.clipped_below(ratio_BT, advantages_B) & counted_BT

        def total(values_BT: Tensor) -> float:
            return float(values_BT.where(counted_BT, 0.0).sum())

        sums = TokenSums(
            tokens=float(counted_BT.sum()),
            loss=float(loss),
            ratio=total(ratio_BT),
            ratio_max=float(ratio_BT.where(counted_BT, 0.0).max()),
            clipped_above=float(above_BT.sum()),
            clipped_below=float(below_BT.sum()),
            probability_clipped_above=float(logps_BT.exp().where(above_BT, 0.0).sum()),
            kl_old=total(k3(logps_BT - old_BT)),
            kl_reference=0.0 if reference_BT is None else total(k3(reference_BT - logps_BT)),
            sampling_gap=total((logps_BT - sampled_BT).abs()),
        )
        if algorithm.correction.reweights:
            sums.correction = total(algorithm.correction.weights(old_BT, sampled_BT))
            sums.correction_capped = total(algorithm.correction.capped(old_BT, sampled_BT).float())
    return loss, sums


def _padded(rows: Sequence[Tensor | None], device: torch.device) -> Tensor:
    known = [row for row in rows if row is not None]
    assert len(known) == len(rows), "log-probs were not attached to every row"
    return right_pad(known, device)
