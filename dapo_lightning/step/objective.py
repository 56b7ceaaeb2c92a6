"""The objective of DAPO (Eq. 8) on the rows of one micro-batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers import PreTrainedModel

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.algorithm.kl import k3
from dapo_lightning.algorithm.loss import weighted_sum
from dapo_lightning.algorithm.ratio import log_ratio
from dapo_lightning.algorithm.tokens import EffectiveSize, Max, Mean, Metric, PerToken, Reduced, Tokens
from dapo_lightning.forward.logprobs import completion_logps, right_pad
from dapo_lightning.step.experience import Row


def objective(tokens: Tokens, algorithm: Algorithm) -> PerToken:
    """Returns the objective to maximise for each token: entropy(correction * rejection * clip(ratio, advantage)) - KL
    penalty."""
    ratio_BT = algorithm.ratio(tokens)
    surrogate = algorithm.clip(ratio_BT, tokens)
    correction, rejection = algorithm.correction(tokens), algorithm.rejection(tokens)
    policy = algorithm.entropy(surrogate.values_BT * correction.values_BT * rejection.values_BT, tokens)
    penalty = algorithm.kl(tokens)
    gap_BT = (tokens.logps_BT - tokens.sampled_logps_BT).detach()
    log_weight_BT = log_ratio(tokens.logps_BT, tokens.sampled_logps_BT).detach()
    metrics: dict[str, Metric] = {
        "ratio/mean": Mean(ratio_BT.detach()),
        "ratio/max": Max(ratio_BT.detach()),
        "kl/old": Mean(k3(tokens.logps_BT, tokens.old_logps_BT).detach()),
        "sampling/logp_gap": Mean(gap_BT.abs()),
        "sampling/logp_gap_max": Max(gap_BT.abs()),
        "sampling/kl": Mean(k3(tokens.logps_BT, tokens.sampled_logps_BT).detach()),
        "sampling/effective_size": EffectiveSize(log_weight_BT),
        "sampling/chi_square": Mean((2 * log_weight_BT).expm1()),
    }
    for part in (surrogate, correction, rejection, policy, penalty):
        metrics |= part.metrics
    return PerToken(policy.values_BT - penalty.values_BT, metrics)


def surrogate_loss(
    model: PreTrainedModel, rows: Sequence[Row], algorithm: Algorithm, temperature: float
) -> tuple[Tensor, dict[str, Reduced]]:
    """Returns - sum_bt w_bt objective_bt over the given rows, and their metrics. The losses of the parts of a
    mini-batch add up to its loss, however it is divided.

    Log-probs are computed at the sampling temperature, because the ratio compares the distributions that completions
    are sampled from.
    """
    tokens = _tokens(model, rows, temperature, algorithm.needs_entropies)
    weights = right_pad([row.weights for row in rows], tokens.mask_BT.device)
    if not tokens.mask_BT.any():  # a placeholder takes part in collectives, but options might divide by 0
        return weighted_sum(tokens.logps_BT, tokens.mask_BT, weights), {}
    found = objective(tokens, algorithm)
    loss = weighted_sum(found.values_BT, tokens.mask_BT, weights)
    return loss, {name: metric.reduce(tokens.mask_BT) for name, metric in found.metrics.items()}


def summed(parts: Sequence[Mapping[str, Reduced]]) -> dict[str, Reduced]:
    """Merges the metrics of several micro-batches, ranks or gradient steps."""
    total: dict[str, Reduced] = {}
    for part in parts:
        for name, reduced in part.items():
            total[name] = total[name] + reduced if name in total else reduced  # type: ignore[operator]
    return total


def _tokens(model: PreTrainedModel, rows: Sequence[Row], temperature: float, with_entropies: bool) -> Tokens:
    trajectories = [row.trajectory for row in rows]
    prompts, written = [row.prompt_tokens for row in rows], [trajectory.tokens_T for trajectory in trajectories]
    logps_BT, entropies_BT = completion_logps(model, prompts, written, temperature, with_entropies)
    references = [row.reference_logps_T for row in rows]

    def padded(values: Sequence[Tensor | None], name: str) -> Tensor:
        known = [value for value in values if value is not None]
        assert len(known) == len(rows), f"{name} are unknown for some rows"
        return right_pad(known, logps_BT.device)

    mask_BT = padded([trajectory.loss_mask_T for trajectory in trajectories], "loss masks")

    def masked(values: Sequence[Tensor | None], name: str) -> Tensor:
        return padded(values, name).where(mask_BT, 0.0)

    return Tokens(
        logps_BT=logps_BT,
        old_logps_BT=masked([trajectory.old_logps_T for trajectory in trajectories], "old log-probs"),
        sampled_logps_BT=masked([trajectory.logps_T for trajectory in trajectories], "sampled log-probs"),
        advantages_BT=padded([row.advantages for row in rows], "advantages"),
        mask_BT=mask_BT,
        reference_logps_BT=None if all(r is None for r in references) else masked(references, "reference log-probs"),
        entropies_BT=entropies_BT,
        marks={name: padded([row.marks[name] for row in rows], name) for name in rows[0].marks},
    )
