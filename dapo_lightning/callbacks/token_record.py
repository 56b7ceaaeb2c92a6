"""What an update did to single tokens: probabilities before and after it, and whether the clip holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.algorithm.tokens import Tokens
from dapo_lightning.forward.logprobs import right_pad
from dapo_lightning.policy import Policy
from dapo_lightning.step.experience import Row
from dapo_lightning.step.module import DAPOModule

_WINDOW = 4  # tokens before a token that its text may depend on: a character of UTF-8 has up to four bytes


def token_records(module: DAPOModule, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Returns the columns of single tokens for rows of the last update, by one forward pass of the updated policy.

    All ranks must call it together. Random state is not touched.
    """
    devices = [module.device] if module.device.type == "cuda" else []
    with torch.random.fork_rng(devices), module.trainer.precision_plugin.forward_context():
        new_logps = module.host.logps(module.model, rows)
    held: Sequence[Tensor | None] = [None] * len(rows)
    algorithm = module.algorithm
    if rows and not (algorithm.has_marks or algorithm.needs_entropies):  # which are known only during the update
        held = _held(rows, new_logps, algorithm)
    return [
        {
            "token_texts": token_texts(module.worker.policy, row.trajectory.tokens_T),
            "old_logps": _old_logps(row).tolist(),
            "new_logps": new_T.tolist(),
            "ratios": (new_T - _old_logps(row)).exp().tolist(),
            "advantages": row.advantages.expand(len(new_T)).tolist(),
            "weights": row.weights.expand(len(new_T)).tolist(),
            "held": None if held_T is None else held_T.tolist(),
            "masked": (~row.trajectory.loss_mask_T).tolist(),
        }
        for row, new_T, held_T in zip(rows, new_logps, held, strict=True)
    ]


def token_texts(policy: Policy, tokens_T: Tensor) -> list[str]:
    """Returns the text that each token adds to the text before it, so that spaces and split characters are right."""
    ids, tokenizer = tokens_T.tolist(), policy.codec.tokenizer
    texts = []
    for place, token in enumerate(ids):
        start = max(0, place - _WINDOW)
        before, after = tokenizer.decode(ids[start:place]), tokenizer.decode(ids[start : place + 1])
        pairs = enumerate(zip(before, after, strict=False))
        added = after[next((i for i, (one, other) in pairs if one != other), len(before)) :]
        texts.append(added or str(tokenizer.convert_ids_to_tokens(token)))
    return texts


def _old_logps(row: Row) -> Tensor:
    assert row.trajectory.old_logps_T is not None, "the update needs old log-probs"
    return row.trajectory.old_logps_T


def _held(rows: Sequence[Row], new_logps: Sequence[Tensor], algorithm: Algorithm) -> list[Tensor]:
    """Returns for each token of each row 1 if the clip removes its gradient with a ratio above 1, -1 if below, else 0,
    [T]. The gradient is computed, because every option may have its own rule."""
    mask_BT = right_pad([row.trajectory.loss_mask_T for row in rows], torch.device("cpu"))

    def padded(values: Sequence[Tensor]) -> Tensor:
        return right_pad(values, mask_BT.device)

    with torch.enable_grad():
        logps_BT = padded(new_logps).requires_grad_()
        tokens = Tokens(
            logps_BT=logps_BT,
            old_logps_BT=padded([_old_logps(row) for row in rows]).where(mask_BT, 0.0),
            sampled_logps_BT=padded([row.trajectory.logps_T for row in rows]).where(mask_BT, 0.0),
            advantages_BT=padded([row.advantages for row in rows]),
            mask_BT=mask_BT,
        )
        ratio_BT = algorithm.ratio(tokens)
        values_BT = algorithm.clip(ratio_BT, tokens).values_BT
        (gradient_BT,) = torch.autograd.grad(values_BT.where(mask_BT, 0.0).sum(), logps_BT)
    is_held_BT = mask_BT & (gradient_BT == 0) & (tokens.advantages_BT != 0)
    held_BT = torch.where(ratio_BT.detach() > 1, 1, -1).where(is_held_BT, 0)
    return [held_T[: len(new_T)] for held_T, new_T in zip(held_BT, new_logps, strict=True)]
