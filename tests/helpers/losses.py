"""Losses and gradients of rows, micro-batch after micro-batch."""

from dataclasses import replace

import torch

from dapo_lightning.forward.micro_batches import micro_batches
from dapo_lightning.step.objective import summed, surrogate_loss


def on_policy(rows, reference_gap=None):
    """Rows whose old log-probs are those recorded while sampling, and whose reference lies below them by a gap."""
    return [
        replace(
            row,
            trajectory=replace(row.trajectory, old_logps_T=row.trajectory.logps_T),
            reference_logps_T=None if reference_gap is None else row.trajectory.logps_T - reference_gap,
        )
        for row in rows
    ]


def gradient(model, rows, options, max_tokens=10_000):
    """Gradient, loss and metrics."""
    model.zero_grad()
    total, metrics = 0.0, []
    for part in micro_batches(rows, lambda row: row.num_tokens, max_tokens):
        loss, part_metrics = surrogate_loss(model, part, options, temperature=0.8)
        loss.backward()
        total += loss.item()
        metrics.append(part_metrics)
    return torch.cat([p.grad.flatten() for p in model.parameters()]).clone(), total, summed(metrics)
