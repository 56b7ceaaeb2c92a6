"""Messages beside progress bars."""

import io
import logging
import sys

from dapo_lightning.callbacks.progress import StepProgressBar
from dapo_lightning.run.quiet import messages_above_bars


def test_messages_and_errors_begin_on_lines_of_their_own(monkeypatch):
    console, log = io.StringIO(), logging.getLogger("test of bars")
    monkeypatch.setattr(sys, "stdout", console)
    monkeypatch.setattr(sys, "stderr", console)
    handler = logging.StreamHandler(console)
    logging.root.addHandler(handler)
    callback = StepProgressBar()
    try:
        with messages_above_bars():
            callback._train_progress_bar = callback.init_train_tqdm()
            log.warning("a warning")
            callback.on_exception(None, None, ValueError())
            print("error: an error")
    finally:
        logging.root.removeHandler(handler)
    lines = console.getvalue().replace("\r", "\n").splitlines()
    assert {"a warning", "error: an error"} <= set(lines)
