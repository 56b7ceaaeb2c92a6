"""Completions whose log-probs are numbers, or an error that says what is not."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedModel

from dapo_lightning.types import Completion


class NotFiniteError(RuntimeError):
    """Weights, logits, rewards, losses or gradients are NaN or infinite."""


def check_finite(completions: Iterable[Completion], model: PreTrainedModel, source: str) -> None:
    """Checks the completions of a prompt: whatever is wrong with the weights or the logits that a token is sampled
    from, its log-prob is not finite. They are on the CPU already, so that this waits for no accelerator.

    Args:
        source: names the prompt.

    Raises:
        NotFiniteError: which says whether the weights or the logits are not finite, and what to do.
    """
    if all(completion.logps_T.isfinite().all() for completion in completions):
        return
    weights = dict(model.named_parameters())
    ruined = [name for name, weight in weights.items() if not weight.isfinite().all()]
    if ruined:
        raise NotFiniteError(
            f"{len(ruined)} of the policy's {len(weights)} weight tensors are not finite ({ruined[0]}, for one), so "
            "that nothing can be sampled. Use other weights, such as an earlier checkpoint; if training has ruined "
            "them, lower optimizer.lr."
        )
    raise NotFiniteError(
        f"{source}: the policy's weights are finite, but its logits are not, so that nothing can be sampled. Use "
        "trainer.precision=32-true, policy.dtype=float32 or a higher temperature; if that changes nothing, try "
        "policy.attention=eager."
    )
