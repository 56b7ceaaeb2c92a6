"""Lightning without the remarks that mean nothing here."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.warnings import PossibleUserWarning


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Leaves out Lightning's hints and its log of the obvious, for the block. Its other warnings stay.

    The hints concern modules in eval mode (the policy has no dropout), few data loader workers (nothing is loaded),
    metrics that are not reduced (ours are those of all ranks) and srun. The log names devices and other products.
    """
    remarks = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = remarks.level
    remarks.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"lightning\.pytorch\.utilities\._pytree")
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
            warnings.filterwarnings(
                "ignore", category=UserWarning, module=r"peft\.", message=".*(tie|embedding layers)"
            )
            # A step that is skipped leaves the optimizer alone, but not the schedule of the learning rate.
            schedule = r"torch\.optim\.lr_scheduler|dapo_lightning\.step\."
            warnings.filterwarnings("ignore", category=UserWarning, module=schedule)
            yield
    finally:
        remarks.setLevel(level)
