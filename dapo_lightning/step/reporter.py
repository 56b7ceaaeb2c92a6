"""What a DAPO step reports, and what a run remembers of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.draws.fill import Filled
from dapo_lightning.step.metrics import GroupRecord, completion_metrics, grading_metrics
from dapo_lightning.step.objective import TokenSums
from dapo_lightning.utils.clock import Clock
from dapo_lightning.utils.memory import peak_memory_mb


@dataclass(frozen=True)
class GradientStep:
    """One gradient step: what its tokens did, the gradient norm before clipping, whether it was skipped."""

    sums: TokenSums
    gradient_norm: float
    skipped: bool


@dataclass
class History:
    """Counters of a run; saved in checkpoints, so that a resumed run reports the whole.

    `evaluations`: DAPO steps done -> held-out metrics.
    """

    dapo_steps: int = 0
    gradient_steps: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    groups_generated: int = 0
    groups_used_up: int = 0
    groups_useful: int = 0
    tokens_generated: int = 0
    tokens_trained: int = 0
    evaluations: dict[int, dict[str, float]] = field(default_factory=dict)

    def add_step(self, records: Sequence[GroupRecord], filled: Filled, sums: TokenSums) -> None:
        """Counts one DAPO step: what it generated and trained on."""
        self.dapo_steps += 1
        self.groups_generated += len(records)
        self.groups_used_up += sum(filled.reasons.values())
        self.groups_useful += filled.reasons.get("useful", 0)
        self.tokens_generated += sum(sum(record.num_tokens) for record in records)
        self.tokens_trained += round(sums.tokens)

    def state_dict(self, clock: Clock) -> dict[str, Any]:
        return asdict(self) | {"seconds": dict(clock.seconds)}

    def load_state_dict(self, state: dict[str, Any], clock: Clock) -> None:
        """Keeps an evaluation that was made of this very state."""
        made = {step: metrics for step, metrics in self.evaluations.items() if step == state["dapo_steps"]}
        state = state | {"evaluations": state["evaluations"] | made}
        clock.seconds.update(state.pop("seconds"))
        for name, value in state.items():
            setattr(self, name, value)


def sum_over_ranks(sums: TokenSums, ranks: Ranks) -> TokenSums:
    """The sums of all ranks, on every rank."""
    return sum(ranks.gather([sums]), TokenSums())


def used_up(records: Sequence[GroupRecord], filled: Filled) -> list[GroupRecord]:
    """The records of those prompts that the step used up: the others will be drawn again, as if never sampled."""
    return [record for record in records if record.number < filled.cursor]


def step_metrics(
    records: Sequence[GroupRecord],
    filled: Filled,
    sums: TokenSums,
    gradient_steps: Sequence[GradientStep],
    seconds: dict[str, float],
    learning_rate: float,
) -> dict[str, float]:
    """Everything that is logged for one DAPO step.

    Rollout metrics are over all prompts that the step used up, kept or not, so that neither the filter nor what was
    sampled ahead can bias them; what is generated and its seconds count everything. Update metrics are means over the
    tokens of the gradient steps taken; the sampling gap is that of the first, whose weights are those that sampled, but
    for carried groups. `groups/kept` is what was trained on, `groups/useful` also counts the surplus. `groups/carried`
    is the share, of those trained on, that the step before sampled; none but `groups/kept` and what is of the update
    counts them here.
    """
    used = used_up(records, filled)
    num_groups = len(used)
    num_generated_tokens = sum(sum(record.num_tokens) for record in records)
    metrics = completion_metrics(used) | grading_metrics(used)
    metrics |= {f"groups/{reason}": filled.reasons.get(reason, 0) / num_groups for reason in REASONS}
    metrics |= {
        "groups/kept": len(filled.groups) / num_groups,
        "groups/trained": float(len(filled.groups)),
        "groups/carried": filled.num_carried / max(1, len(filled.groups)),
        "sampling/keep_rate": filled.keep_rate,
        "sampling/rounds": float(filled.num_rounds),
        "sampling/generated_per_trained": filled.num_generated / max(1, len(filled.groups)),
        "tokens/generated": float(num_generated_tokens),
        "tokens/trained": sums.tokens,
        "learning_rate": learning_rate,
        "memory/peak_mb": peak_memory_mb(),
    }
    for name in ("generate", "grade", "wait", "update"):
        metrics[f"seconds/{name}"] = seconds.get(name, 0.0)
    metrics["tokens_per_second/generate"] = num_generated_tokens / max(1e-9, metrics["seconds/generate"])
    metrics["tokens_per_second/grade"] = num_generated_tokens / max(1e-9, metrics["seconds/grade"])
    metrics["tokens_per_second/update"] = sums.tokens / max(1e-9, metrics["seconds/update"])
    return metrics | _update_metrics(sums, gradient_steps)


REASONS = ("useful", "all_correct", "all_wrong")


def _update_metrics(sums: TokenSums, gradient_steps: Sequence[GradientStep]) -> dict[str, float]:
    taken = [step for step in gradient_steps if not step.skipped]
    metrics = {"gradient/steps": float(len(taken)), "gradient/skipped": float(len(gradient_steps) - len(taken))}
    if not taken:
        return metrics
    metrics |= {
        "loss": sums.loss / len(taken),
        "ratio/mean": sums.ratio / sums.tokens,
        "ratio/max": sums.ratio_max,
        "clip/upper_fraction": sums.clipped_above / sums.tokens,
        "clip/lower_fraction": sums.clipped_below / sums.tokens,
        "kl/old": sums.kl_old / sums.tokens,
        "gradient/norm": sum(step.gradient_norm for step in taken) / len(taken),
    }
    metrics["sampling/logp_gap"] = taken[0].sums.sampling_gap / taken[0].sums.tokens
    if sums.clipped_above:
        metrics["clip/upper_probability"] = sums.probability_clipped_above / sums.clipped_above
    return metrics
