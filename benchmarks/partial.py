"""What a step of a run costs, for partial rollouts: `python -m benchmarks.partial <overrides of train.py>`.

For each DAPO step, it prints the decoding steps (forward passes of one token per row, which follow each other and
so are the shortest time in which a machine of any size generates), the tokens generated, CPU seconds, and wall seconds.
"""

import time
from typing import Any

from dapo_lightning.rollout.shared_cache import SharedPromptCache
from dapo_lightning.run.cli import main
from dapo_lightning.step.module import DAPOModule
from dapo_lightning.utils import clock

COUNT = {"steps": 0, "tokens": 0, "read": 0}
SHOWN = ("wall seconds", "seconds/generate", "seconds/update", "groups/trained", "sampling/rounds",
         "sampling/generated_per_trained", "length/mean", "sampling/partial_share", "sampling/in_flight",
         "accuracy")  # fmt: skip


def counted() -> None:
    """Makes the cache count, and the module print."""
    step, read, train = SharedPromptCache.step, SharedPromptCache.read_prompts, DAPOModule.training_step

    def counting_step(self: Any, tokens_B: Any) -> Any:
        COUNT["steps"] += 1
        COUNT["tokens"] += len(tokens_B)
        return step(self, tokens_B)

    def counting_read(self: Any, prompts: Any, *args: Any) -> Any:
        COUNT["read"] += sum(map(len, prompts))
        return read(self, prompts, *args)

    def printing(self: Any, *args: Any) -> Any:
        COUNT.update(dict.fromkeys(COUNT, 0))
        start = time.perf_counter()
        result = train(self, *args)
        metrics = {"wall seconds": time.perf_counter() - start} | result["step"].metrics
        print(result["step"].number, COUNT, {n: round(metrics[n], 3) for n in SHOWN if n in metrics}, flush=True)
        return result

    SharedPromptCache.step, SharedPromptCache.read_prompts = counting_step, counting_read  # type: ignore[method-assign]
    DAPOModule.training_step = printing  # type: ignore[method-assign]
    clock._now = time.process_time


if __name__ == "__main__":
    counted()
    main()
