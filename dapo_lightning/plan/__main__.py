"""`python -m dapo_lightning.plan` prints a table of plans: Qwen2.5 models on 1, 8 and 128 accelerators."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from torch.optim import AdamW

from dapo_lightning.algorithm.kl import NoKL
from dapo_lightning.algorithm.sampling import Dynamic
from dapo_lightning.distributed.sharding import FSDP2
from dapo_lightning.plan.accelerators import ACCELERATORS, Cluster
from dapo_lightning.plan.advice import MEMORY, ROUNDING, Change, advise, assess_with
from dapo_lightning.plan.model import QWEN, known_config
from dapo_lightning.plan.report import duration
from dapo_lightning.rollout.decode import Decode
from dapo_lightning.utils.options import target_of
from dapo_lightning.utils.table import table

HELP = """A DAPO step of 512 prompts x 16 completions of at most 4,096 tokens (1,024 on average), in 4 gradient steps,
for Qwen2.5 of three sizes on accelerators of one kind."""
PHASES = ("generate", "log-probs", "update")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser("python -m dapo_lightning.plan", description=HELP)
    parser.add_argument("--accelerator", default="h100-sxm", choices=list(ACCELERATORS))
    parser.add_argument("--numbers", type=int, nargs="+", default=[1, 8, 128], help="of accelerators")
    given = parser.parse_args()
    print(overview(given.accelerator, given.numbers))


def overview(name: str, numbers: Sequence[int]) -> str:
    """Returns a table with a row for each model, number of accelerators and trainer."""
    rows = []
    for model in QWEN:
        model_config = known_config(model)
        assert model_config is not None
        for number in numbers:
            for trainer in ("ddp", "fsdp2") if number > 1 else ("single",):
                run = (example(trainer), model_config, Cluster(ACCELERATORS[name], number))
                changes = advise(*run, may=is_setting)
                found = assess_with(changes, *run)
                totals = [f"{found.totals[phase] / 1e9:.0f}" for phase in PHASES]
                settings = " ".join(change.override for change in changes) or "-"
                verdict = ("yes" if found.fits else "no", duration(found.seconds), settings)
                rows.append((model.partition("/")[2], number, trainer, *totals, *verdict))
    phases = [f"{phase}, GB" for phase in PHASES]
    return table(("policy", "ranks", "trainer", *phases, "fits", "minimum time per step", "with"), rows)


def is_setting(change: Change) -> bool:
    """Whether a change affects neither the training, nor its cluster, nor the trainer of the row."""
    return change.affects in (MEMORY, ROUNDING) and change.key != "trainer"


def example(trainer: str) -> dict[str, Any]:
    """Returns the part of a run's configuration that a plan reads."""
    limits = {"max_new_tokens": 4096, "top_p": 1.0}
    strategy = {"_target_": target_of(FSDP2)} if trainer == "fsdp2" else trainer
    return {
        "policy": {},
        "rollout": {"_target_": target_of(Decode), "max_rows": 64},
        "kl": {"_target_": target_of(NoKL)},
        "sampling": {"_target_": target_of(Dynamic)},
        "optimizer": {"_target_": target_of(AdamW), "fused": True},
        "trainer": {"strategy": strategy, "precision": "bf16-mixed", "activation_checkpointing": True},
        "num_prompts_per_step": 512,
        "num_completions_per_prompt": 16,
        "num_gradient_steps": 4,
        "micro_batch_tokens": 8192,
        "max_prompt_tokens": 512,
        **limits,
        "evaluation": {"num_prompts": None, "num_completions": 16, **limits},
        "plan": {"mean_tokens": 1024, "keep_rate": 0.5},
    }


if __name__ == "__main__":
    main()
