"""Checks that the log-probs of completions are finite."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedModel

from dapo_lightning.types import Completion, Trajectory


class NotFiniteError(RuntimeError):
    """Weights, logits, rewards, losses or gradients are NaN or infinite."""


def check_finite(completions: Iterable[Completion | Trajectory], model: PreTrainedModel, source: str) -> None:
    """Checks the completions of a prompt. If weights or logits are not finite, neither is the log-prob of a token that
    is sampled from them. Log-probs are already on the CPU, so the check does not wait for an accelerator.

    Args:
        source: the row of the prompt, for the message.

    Raises:
        NotFiniteError: with a message that says whether the weights or the logits are not finite, and what to do.
    """
    if all(completion.logps_T.isfinite().all() for completion in completions):
        return
    weights = dict(model.named_parameters())
    bad = [name for name, weight in weights.items() if not weight.isfinite().all()]
    if bad:
        raise NotFiniteError(
            f"{len(bad)} of the policy's {len(weights)} weight tensors are not finite (for example, {bad[0]}), so no "
            "token can be sampled. Use other weights, such as an earlier checkpoint; if this happened during training, "
            "lower optimizer.lr."
        )
    raise NotFiniteError(
        f"{source}: the policy's weights are finite, but its logits are not, so no token can be sampled. Use "
        "trainer.precision=32-true, policy.dtype=float32 or a higher temperature; if that does not help, try "
        "policy.attention=eager."
    )
