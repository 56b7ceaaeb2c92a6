"""CPU seconds per token and peak memory of a DAPO step against the length of its completions.

    python -m benchmarks.lengths [length ...]

The policy is that of `recipe=long_answers` with random weights; no token ends a completion. Each length runs in a
process of its own, on one thread. The faster of two steps counts.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch

from benchmarks.floor import Work
from benchmarks.ours import OddLength
from dapo_lightning.algorithm import Algorithm
from dapo_lightning.algorithm.overlong import NoOverlong
from dapo_lightning.algorithm.sampling import Static
from dapo_lightning.callbacks.rollouts import Rollouts
from dapo_lightning.data.rounds import Rounds
from dapo_lightning.draws.datamodule import PromptDataModule
from dapo_lightning.draws.length import LengthLimit
from dapo_lightning.draws.worker import RolloutWorker
from dapo_lightning.policy.tiny import TinyPolicy
from dapo_lightning.rollout.decode import Decode
from dapo_lightning.step.module import DAPOModule
from dapo_lightning.types import Generation
from dapo_lightning.utils.clock import Clock
from dapo_lightning.utils.table import table

LENGTHS = (256, 512, 1024, 2048, 4096)
MICRO_BATCH_TOKENS = 8192
PROMPTS, COMPLETIONS = 4, 8


class CpuClock(Clock):
    """CPU time instead of wall time, and the largest resident size within each activity, in MB."""

    def __init__(self) -> None:
        super().__init__()
        self.peak: defaultdict[str, float] = defaultdict(float)
        self.peak["before"] = _memory("VmRSS")

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if self._is_running:
            yield
            return
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
        start, self._is_running = time.process_time(), True
        yield
        self.seconds[name] += time.process_time() - start
        self._is_running = False
        self.peak[name] = max(self.peak[name], _memory("VmHWM"))


def _memory(name: str) -> float:
    """MB, as Linux counts them: VmRSS is the resident size, VmHWM its peak."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) / 1024


class Records(L.Callback):
    """CPU seconds of the files in `rollouts/`, and the operations that the step needed."""

    def __init__(self, folder: str, work: Work):
        self.inner = Rollouts(folder, 500, tokens_every=None, tokens_num_groups=1)
        self.work, self.steps = work, list[dict[str, float]]()

    def on_train_start(self, *args: Any) -> None:
        self.inner.on_train_start(*args)

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, *args: Any) -> None:
        start, metrics = time.process_time(), outputs["step"].metrics
        self.inner.on_train_batch_end(trainer, module, outputs, *args)
        lengths = [(len(g.prompt_tokens), g.lengths_G().tolist()) for g in outputs["step"].batch.groups]
        self.steps.append(
            {
                "generate": metrics["seconds/generate"],
                "update": metrics["seconds/update"],
                "record": time.process_time() - start,
                "flops": self.work.forward_flops(lengths),
                "tokens": metrics["tokens/generated"],
            }
        )


def measure(length: int) -> dict[str, float]:
    """CPU seconds, operations, and peaks in MB, of a step whose completions all have `length` tokens."""
    torch.set_num_threads(1)
    source = TinyPolicy(128, 256, 2, 4, max_positions=8192, initializer_range=0.05, seed=0, warm_start=None)
    codec, dataset = replace(source.codec(), end_tokens=(-1,)), Rounds(5, 9, 2, 1000, 2000, 64, 1, seed=0)
    data = PromptDataModule(
        dataset, codec.encode, LengthLimit(None, length, codec.max_positions),
        num_prompts_per_step=PROMPTS, num_steps=2, num_validation_prompts=1,
    )  # fmt: skip
    clock = CpuClock()
    module = DAPOModule(
        RolloutWorker(source.load(codec, dataset, Path()), Decode(), OddLength(), seed=0, clock=clock),
        replace(Algorithm.dapo(2, 1), overlong=NoOverlong(), sampling=Static()),
        partial(torch.optim.AdamW, lr=1e-6),
        Generation(length),
        num_completions=COMPLETIONS,
        num_gradient_steps=1,
        micro_batch_tokens=MICRO_BATCH_TOKENS,
        logps_are_exact=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        records = Records(folder, Work.of(module.model))
        trainer = L.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, callbacks=[records], enable_checkpointing=False,
            enable_model_summary=False, enable_progress_bar=False, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(module, data)
    best = {name: min(step[name] for step in records.steps) for name in records.steps[0]}
    return best | {f"{name}_mb": peak for name, peak in clock.peak.items()}


def main(lengths: list[int]) -> None:
    found = {}
    for length in lengths:
        command = [sys.executable, "-m", "benchmarks.lengths", "one", str(length)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        found[length] = json.loads(done.stdout.splitlines()[-1])
        print(length, found[length], flush=True)
    header = ["tokens", "kFLOP per token, forward", "generate, us per token", "update, us per token"]
    header += [
        "record, us per token",
        "growth: operations",
        "generate",
        "update",
        "peak MB above the start: generate",
        "update",
    ]
    print(table(header, list(rows(found))))


def rows(found: dict[int, dict[str, float]]) -> Iterator[list[object]]:
    """Of each length: what a token takes, and by how much that has grown since the first length."""
    per_token = {
        n: {name: m[name] / m["tokens"] for name in ("flops", "generate", "update", "record")} for n, m in found.items()
    }
    first = next(iter(per_token.values()))
    for n, m in per_token.items():
        growth = [f"{m[name] / first[name]:.2f}" for name in ("flops", "generate", "update")]
        micro = [f"{1e6 * m[name]:.0f}" for name in ("generate", "update", "record")]
        added = [f"{found[n][f'{name}_mb'] - found[n]['before_mb']:.0f}" for name in ("generate", "update")]
        yield [n, f"{m['flops'] / 1e3:.0f}", *micro, *growth, *added]


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(measure(int(sys.argv[2]))))
    else:
        main([int(length) for length in sys.argv[1:]] or list(LENGTHS))
