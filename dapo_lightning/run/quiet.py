"""Keeps the console readable: no hints of Lightning that do not apply here, and no messages within progress bars."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from tqdm.contrib.logging import logging_redirect_tqdm


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silences Lightning's hints and its log of devices and products for the block. Other warnings are still shown.

    The hints concern modules in eval mode (the policy has no dropout), few data loader workers (nothing is loaded),
    metrics that are not reduced over ranks (they are reduced already) and srun.
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
            # The learning rate scheduler warns after a skipped step, in which only the scheduler was called.
            schedule = r"torch\.optim\.lr_scheduler|dapo_lightning\.step\."
            warnings.filterwarnings("ignore", category=UserWarning, module=schedule)
            yield
    finally:
        remarks.setLevel(level)


def messages_above_bars() -> AbstractContextManager[None]:
    """Within the context, messages of the log are printed on lines of their own, above the progress bars."""
    return logging_redirect_tqdm(tqdm_class=Tqdm)
