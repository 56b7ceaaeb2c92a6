"""Times steps of TRL's GRPOTrainer (loss_type="dapo") on one case, in a process of its own; prints one JSON line."""

from __future__ import annotations

import os

os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1", TOKENIZERS_PARALLELISM="false")

import argparse
import json
import resource
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.cases import CASES


class Timed(GRPOTrainer):
    """Notes how long generation takes, and how much it generates."""

    generate_seconds = 0.0
    num_tokens = 0

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        out = super()._generate_single_turn(*args, **kwargs)
        self.generate_seconds += time.perf_counter() - start
        self.num_tokens += sum(map(len, out[0]))
        return out


class Steps(TrainerCallback):
    """Wall seconds of every step; what is not generation counts as update (scoring is next to nothing)."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.trainer: Timed | None = None

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        assert self.trainer is not None
        seconds = time.perf_counter() - self.start
        generate, tokens = self.trainer.generate_seconds, self.trainer.num_tokens
        self.steps.append({"step": seconds, "generate": generate, "update": seconds - generate, "tokens": tokens})
        self.trainer.generate_seconds, self.trainer.num_tokens = 0.0, 0
        self.start = time.perf_counter()


def odd_sum(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Costs nothing."""
    return [float(sum(ids) % 2) for ids in completion_ids]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--micro-batch-rows", type=int)
    parser.add_argument("--precision", default="32-true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    case = CASES[arguments.case]

    folder = case.policy_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    texts = case.prompts(64)
    prompts = [[{"role": "user", "content": text}] for text in texts] if case.model == "smollm2" else texts
    num_rows = case.num_prompts * case.num_completions
    micro = arguments.micro_batch_rows or case.micro_batch_rows
    steps = Steps()
    trainer = Timed(
        model=model,
        processing_class=tokenizer,
        reward_funcs=odd_sum,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        callbacks=[steps],
        args=GRPOConfig(
            output_dir=tempfile.mkdtemp(),
            use_cpu=True,
            bf16=arguments.precision == "bf16-mixed",
            gradient_checkpointing=case.recompute,
            loss_type="dapo",
            epsilon=0.2,
            epsilon_high=0.28,
            beta=0.0,
            num_generations=case.num_completions,
            max_completion_length=case.max_new_tokens,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=num_rows // micro,
            max_steps=arguments.steps,
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            temperature=1.0,
            generation_kwargs=None if case.natural else {"min_new_tokens": case.max_new_tokens},
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
    )
    steps.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"steps": steps.steps, "peak_mb": peak}))


if __name__ == "__main__":
    main()
