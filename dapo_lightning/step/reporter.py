"""Computes the metrics of a DAPO step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import lightning as L

from dapo_lightning.algorithm import OverlongOption
from dapo_lightning.draws.fill import Batch
from dapo_lightning.reward import Reward
from dapo_lightning.step.metrics import answer_metrics, completion_metrics, grading_metrics
from dapo_lightning.step.objective import summed
from dapo_lightning.step.result import History, Update
from dapo_lightning.step.turns import turn_metrics
from dapo_lightning.utils.memory import peak_memory_mb

PROGRESS_BAR = ("reward/mean", "accuracy", "entropy", "length/mean")
REASONS = ("useful", "all_correct", "all_wrong")


def step_metrics(
    batch: Batch,
    updates: Sequence[Update],
    overlong: OverlongOption,
    reward: Reward,
    seconds: Mapping[str, float],
    learning_rate: float,
    history: History,
) -> dict[str, float]:
    """Returns everything that is logged for one DAPO step, by name.

    Metrics of completions and groups cover all prompts that the step used up, kept or not, so that neither the keep
    rule nor generation ahead of demand can bias them. Counts of generated groups and tokens, and seconds, cover
    everything that was generated. Metrics of the update are means over the tokens of the gradient steps that were
    taken. Carried groups enter only `groups/kept`, `groups/trained`, `groups/carried` and the metrics of the update.

    Args:
        seconds: wall time of this step by activity.
        history: counters of the run, this step included.
    """
    used, num_trained = batch.used, len(batch.groups)
    tokens_generated = sum(sum(record.num_tokens) for record in batch.records)
    tokens_trained = float(sum(update.num_tokens for update in updates if update.is_taken))
    metrics = completion_metrics(used, overlong) | grading_metrics(used) | answer_metrics(used, reward)
    metrics |= turn_metrics(used)
    metrics |= {
        f"groups/{reason}": batch.reasons.get(reason, 0) / len(used)
        for reason in (*REASONS, *sorted(batch.reasons.keys() - REASONS))
    }
    metrics |= {
        "groups/kept": num_trained / len(used),
        "groups/trained": float(num_trained),
        "groups/carried": batch.num_carried / max(1, num_trained),
        "sampling/keep_rate": batch.keep_rate.value,
        "sampling/rounds": float(batch.num_rounds),
        "sampling/generated_per_trained": len(batch.records) / max(1, num_trained),
        "tokens/generated": float(tokens_generated),
        "tokens/trained": tokens_trained,
        "learning_rate": learning_rate,
        "memory/peak_mb": peak_memory_mb(),
    }
    if batch.unfinished is not None:
        trajectories = [trajectory for group in batch.groups for trajectory in group.trajectories]
        num_tokens = sum(len(trajectory.tokens_T) for trajectory in trajectories)
        metrics |= {
            "sampling/in_flight": float(len(batch.unfinished)),
            "sampling/partial_share": sum(t.num_earlier for t in trajectories) / max(1, num_tokens),
        }
    metrics |= {f"seconds/{name}": seconds.get(name, 0.0) for name in ("generate", "grade", "wait", "update")}
    metrics |= {
        "tokens_per_second/generate": tokens_generated / max(1e-9, metrics["seconds/generate"]),
        "tokens_per_second/grade": tokens_generated / max(1e-9, metrics["seconds/grade"]),
        "tokens_per_second/update": tokens_trained / max(1e-9, metrics["seconds/update"]),
    }
    metrics |= {"steps/dapo": float(history.dapo_steps), "steps/gradient": float(history.gradient_steps)}
    return metrics | _update_metrics(updates)


def log_step(module: L.LightningModule, metrics: Mapping[str, float], step: int) -> None:
    """Sends the metrics to the loggers and to the progress bar."""
    for logger in module.loggers:  # `module.log` would repeat a metric at steps that did not measure it
        logger.log_metrics(dict(metrics), step)
    for name, value in metrics.items():
        module.log(name, value, prog_bar=name in PROGRESS_BAR, logger=False, rank_zero_only=True)


def _update_metrics(updates: Sequence[Update]) -> dict[str, float]:
    """Metrics of the gap to the sampler are those of the first gradient step: before it, the weights are the same."""
    taken = [update for update in updates if update.is_taken]
    metrics = {"gradient/steps": float(len(taken)), "gradient/skipped": float(len(updates) - len(taken))}
    if not taken:
        return metrics
    metrics |= {
        "loss": sum(update.loss for update in taken) / len(taken),
        "gradient/norm": sum(update.gradient_norm for update in taken) / len(taken),
    }
    of_tokens = summed([update.metrics for update in taken])
    of_tokens |= {name: value for name, value in taken[0].metrics.items() if name.startswith("sampling/")}
    return metrics | {name: reduced.value for name, reduced in of_tokens.items() if reduced.value is not None}
