"""Schedules of the learning rate: those of Hugging Face, in DAPO steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler


def scheduled(
    optimizer: Optimizer,
    name: str = "constant_with_warmup",
    num_warmup_steps: int = 10,
    num_steps: int = 1,
    delays: Sequence[int] = (),
    **more: float,
) -> LambdaLR:
    """Returns the schedule of an optimizer: DAPO step number i, counted from 1, has the factor that
    `transformers.get_scheduler` gives to step i of `num_steps` + 1 steps. (Their step 0 has factor 0 with warm-up, and
    their last one has factor 0 with a decay; neither would train.)

    Args:
        name: name of the schedule in transformers.
        num_warmup_steps: steps over which the learning rate rises linearly to its full value.
        num_steps: length of the run; a resumed run that is given more steps follows the schedule of its new length.
        delays: steps after which each parameter group begins its schedule, which then ends with the run. Before, its
            learning rate is 0.
        more: arguments of this schedule, such as `num_cycles`.
    """

    def delayed(delay: int) -> Callable[[int], float]:
        unused, length = torch.optim.SGD([torch.zeros(1)], lr=1.0), num_steps - delay + 1
        theirs = get_scheduler(name, unused, num_warmup_steps, length, scheduler_specific_kwargs=more or None)
        return lambda step: theirs.lr_lambdas[0](step - delay + 1) if step >= delay else 0.0

    return LambdaLR(optimizer, [delayed(delay) for delay in delays or [0] * len(optimizer.param_groups)])
