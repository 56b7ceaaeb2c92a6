"""The gradient of a mini-batch: micro-batch after micro-batch, on all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import lightning as L
from torch import Tensor, nn

from dapo_lightning.algorithm.tokens import Reduced
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.distributed.sharding import full_tensor
from dapo_lightning.step.experience import MiniBatch, Row
from dapo_lightning.step.host import PolicyHost
from dapo_lightning.step.objective import summed
from dapo_lightning.step.result import Update


def gradient_of(
    mini_batch: MiniBatch,
    host: PolicyHost,
    loss_of: Callable[[Sequence[Row]], tuple[Tensor, dict[str, Reduced]]],
    module: L.LightningModule,
    max_norm: float,
    ranks: Ranks,
) -> Update:
    """Runs forward and backward passes on all micro-batches of a mini-batch, and scales the gradient, which is then in
    the weights, down to `max_norm`. Returns the gradient step for which the optimizer is ready.

    Args:
        loss_of: loss and metrics of a micro-batch; the losses add up to that of the mini-batch.
        module: runs the backward passes.
    """
    parts = host.micro_batches(mini_batch.rows)
    loss, metrics = 0.0, list[dict[str, Reduced]]()
    for number, part in enumerate(parts, start=1):
        with host.backward(module.trainer.strategy.model, is_last=number == len(parts)):
            part_loss, part_metrics = loss_of(part)
            module.manual_backward(part_loss * ranks.size)  # the strategy averages over ranks, the loss is the sum
        loss += float(part_loss.detach())
        metrics.append(part_metrics)
    everyones = ranks.gather([(loss, summed(metrics))])
    loss = sum(loss for loss, _ in everyones)
    norm = float(full_tensor(nn.utils.clip_grad_norm_(host.policy.model.parameters(), max_norm)))
    is_finite = math.isfinite(loss) and math.isfinite(norm)
    problem = None if is_finite else f"loss {loss} with gradient norm {norm} is not finite"
    return Update(is_finite, loss, norm, mini_batch.num_tokens, summed([m for _, m in everyones]), problem)
