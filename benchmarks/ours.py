"""Times DAPO steps of this kit on one case, in a process of its own; prints one JSON line. No Hydra."""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch

from benchmarks.cases import CASES, Case
from benchmarks.floor import Work
from dapo_lightning.algorithm import Algorithm
from dapo_lightning.algorithm.overlong import NoOverlong
from dapo_lightning.algorithm.sampling import Static
from dapo_lightning.draws.datamodule import PromptDataModule
from dapo_lightning.draws.length import LengthLimit
from dapo_lightning.draws.worker import RolloutWorker
from dapo_lightning.policy.hub import HubPolicy
from dapo_lightning.reward import PendingGrades, Reward
from dapo_lightning.rollout.decode import Decode
from dapo_lightning.run.threads import keep_freed_memory
from dapo_lightning.step.module import DAPOModule
from dapo_lightning.step.schedule import scheduled
from dapo_lightning.types import Generation, Grade, Prompt


class OddLength(Reward):
    """Costs nothing."""

    def submit(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> PendingGrades:
        return lambda: [Grade(float(len(text) % 2), correct=len(text) % 2 == 1) for text in completions]


@dataclass(frozen=True)
class Questions:
    """The prompts of a case as a dataset."""

    case: Case

    def train_prompts(self) -> list[Prompt]:
        return [Prompt(text, "", f"case:{i}") for i, text in enumerate(self.case.prompts(64))]

    def validation_prompts(self) -> list[Prompt]:
        return self.train_prompts()[:1]


class Steps(L.Callback):
    """Wall seconds of every step, with the module's own account of them, and the work there was to do."""

    def __init__(self, work: Work) -> None:
        self.steps: list[dict[str, float]] = []
        self.work = work

    def on_train_batch_start(self, *args: Any) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, module: DAPOModule, outputs: Any, *args: Any) -> None:
        seconds, result = time.perf_counter() - self.start, outputs["step"]
        metrics = result.metrics
        lengths = [(len(g.prompt_tokens), g.lengths_G().tolist()) for g in result.batch.groups]
        self.steps.append(
            {
                "step": seconds,
                "generate": metrics["seconds/generate"],
                "update": metrics["seconds/update"],
                "tokens": metrics["tokens/generated"],
                "flops": self.work.forward_flops(lengths),
                "bytes": self.work.generate_bytes(lengths),
            }
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--micro-batch-tokens", type=int)
    parser.add_argument("--precision", default="32-true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as train.py does
    case = CASES[arguments.case]

    source = HubPolicy(str(case.policy_folder()), chat=case.model == "smollm2")
    codec = source.codec()
    if not case.natural:
        codec = replace(codec, end_tokens=(-1,))  # nothing ends a completion
    algorithm = replace(Algorithm.dapo(2, 1), overlong=NoOverlong(), sampling=Static())
    generation = Generation(case.max_new_tokens)
    data = PromptDataModule(
        Questions(case), codec.encode, LengthLimit(None, case.max_new_tokens, codec.max_positions),
        num_prompts_per_step=case.num_prompts, num_steps=arguments.steps, num_validation_prompts=1, seed=0,
    )  # fmt: skip
    policy = replace(source.load(codec, Questions(case), Path()), recomputes=case.recompute)
    module = DAPOModule(
        RolloutWorker(policy, Decode(), OddLength(), seed=0),
        algorithm,
        partial(torch.optim.AdamW, lr=1e-6, weight_decay=0.0, fused=True),
        generation,
        evaluation=generation,
        num_completions=case.num_completions,
        num_gradient_steps=1,
        micro_batch_tokens=arguments.micro_batch_tokens or case.micro_batch_tokens,
        max_gradient_norm=1.0,
        schedule=partial(scheduled, num_warmup_steps=1),
        num_evaluation_completions=1,
        logps_are_exact=arguments.precision == "32-true",
    )
    steps = Steps(Work.of(module.model))
    trainer = L.Trainer(
        accelerator="cpu", precision=arguments.precision, max_epochs=1, logger=False, callbacks=[steps],
        enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, data)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"steps": steps.steps, "peak_mb": peak}))


if __name__ == "__main__":
    main()
