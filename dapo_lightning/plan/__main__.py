"""`python -m dapo_lightning.plan`: Qwen2.5 models on 1, 8 and 128 accelerators, as a table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from dapo_lightning.plan.accelerators import ACCELERATORS, Cluster, accelerator
from dapo_lightning.plan.assessment import assess
from dapo_lightning.plan.report import duration, table
from dapo_lightning.plan.shapes import QWEN, known_config

HELP = """A DAPO step of 512 prompts x 16 completions of at most 4,096 tokens (1,024 on average), in 4 gradient steps,
for Qwen2.5 of three sizes on accelerators of one kind."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser("python -m dapo_lightning.plan", description=HELP)
    parser.add_argument("--accelerator", default="h100-sxm", choices=list(ACCELERATORS))
    parser.add_argument("--numbers", type=int, nargs="+", default=[1, 8, 128], help="of accelerators")
    given = parser.parse_args(arguments)
    print(overview(given.accelerator, given.numbers))
    return 0


def overview(name: str, numbers: Sequence[int]) -> str:
    """A row for each model, number of accelerators and way to use them."""
    rows: list[tuple[object, ...]] = []
    for model in QWEN:
        for number in numbers:
            for trainer in ("ddp", "fsdp2") if number > 1 else ("single",):
                rows.append((model.partition("/")[2], number, trainer, *_row(model, name, number, trainer)))
    header = ("policy", "ranks", "trainer", *(f"{phase}, GB" for phase in PHASES), "fits", "a step takes at least")
    return table(header, [[str(cell) for cell in row] for row in rows])


PHASES = ("generate", "log-probs", "update")


def _row(model: str, name: str, number: int, trainer: str) -> list[str]:
    model_config = known_config(model)
    assert model_config is not None
    found = assess(example(trainer), model_config, Cluster(accelerator(name), number))
    totals = {phase.name: phase.total for phase in found.phases}
    seconds = duration(sum(found.seconds().values()))
    return [*(f"{totals[phase] / 1e9:.0f}" for phase in PHASES), "yes" if found.fits else "no", seconds]


def example(trainer: str) -> dict[str, Any]:
    """A run of moderate size, keys as in conf/config.yaml: those that a plan reads."""
    sampling = {"max_new_tokens": 4096, "top_p": 1.0}
    fsdp2 = {"_target_": "dapo_lightning.distributed.sharding.FSDP2"}
    return {
        "policy": {"attention": "auto", "dtype": "float32", "gradient_checkpointing": True, "lora": None},
        "rollout": {"_target_": "dapo_lightning.rollout.decode.Decode", "max_rows": 64},
        "kl": {"_target_": "dapo_lightning.algorithm.kl.NoKL"},
        "sampling": {"_target_": "dapo_lightning.algorithm.sampling.Dynamic", "max_rounds": 6},
        "optimizer": {"_target_": "torch.optim.AdamW", "fused": True},
        "trainer": {"strategy": fsdp2 if trainer == "fsdp2" else trainer, "precision": "bf16-mixed"},
        "num_prompts_per_step": 512,
        "num_completions_per_prompt": 16,
        "num_gradient_steps": 4,
        "micro_batch_tokens": 8192,
        "max_prompt_tokens": 512,
        **sampling,
        "evaluation": {"num_prompts": None, "num_completions": 16, **sampling},
        "plan": {"mean_tokens": 1024, "keep_rate": 0.5},
    }


if __name__ == "__main__":
    sys.exit(main())
