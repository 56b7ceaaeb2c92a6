"""This kit's side of `time_to_accuracy`, in a process of its own.

The run is that of `python train.py seed=...`, on a Trainer without loggers, checkpoints and progress bar: TRL's has
none either. A callback evaluates, instead of Lightning's validation loop, so that both sides do it in the same way.
"""

from __future__ import annotations

from typing import Any

import lightning as L
from hydra.utils import instantiate

from benchmarks.arithmetic import Curve, set_up
from dapo_lightning.run.command import as_dict
from dapo_lightning.step.module import DAPOModule


class Recorder(L.Callback):
    """Takes the points of the curve."""

    def __init__(self, curve: Curve):
        self._curve = curve

    def on_train_start(self, *_: Any) -> None:
        self._curve.start()

    def on_train_batch_end(self, trainer: L.Trainer, module: DAPOModule, *_: Any) -> None:
        history = module.history
        self._curve.after(history.dapo_steps, history.groups_generated * module.num_completions)


def main() -> None:
    run, arguments = set_up(__doc__)
    L.seed_everything(arguments.seed, verbose=False)
    trainer = instantiate(
        as_dict(run.config.trainer),
        max_epochs=1,
        limit_val_batches=0,
        callbacks=[Recorder(run.curve)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(run.module, run.data)
    run.module.worker.reward.close()


if __name__ == "__main__":
    main()
