"""TRL's side of `time_to_accuracy`, in a process of its own: GRPOTrainer with `loss_type="dapo"`.

Policy, tokenizer, prompts, reward and settings are taken from the same Hydra config as ours. What differs from ours
is what TRL does not have, or does in a way of its own:

- no dynamic sampling: 16 prompts a rollout, and groups without variance in the reward dilute the batch;
- mini-batches are cut from the shuffled completions of a rollout, not from whole groups, and the loss is divided by
  a quarter of the rollout's tokens, not by the tokens of the mini-batch;
- advantages are divided by the sample's standard deviation (ddof 1) + 1e-4, not the population's + 1e-6, and include
  the length punishment's variance in all-correct and all-wrong groups, which are trained on;
- old log-probs come from another forward pass, not from sampling;
- prompts come in TRL's own order, completions from torch's random numbers.

The learning rate is scheduled as ours is, by the rollout; TRL's own warm-up would begin at 0 and rise in between.

Of the settings that cannot change the result, the fastest of a few short trials (one thread, a machine in use) are
taken: 32 rows per forward pass (8 and 16 took as long, 64 a tenth longer); plain `generate` (a static cache was no
faster, continuous batching made a rollout four times as long); no torch.compile (40 s to compile, twice, and steps no
faster); fused AdamW, TRL's default; nothing is logged, saved or recomputed.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from datasets import Dataset
from hydra.utils import instantiate
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from benchmarks.arithmetic import Run, set_up
from dapo_lightning.types import Prompt


class Recorder(TrainerCallback):
    """Takes the points of the curve."""

    def __init__(self, run: Run):
        self._curve, self._gradient_steps = run.curve, run.config.num_gradient_steps
        self._completions = run.config.num_prompts_per_step * run.config.num_completions_per_prompt

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._curve.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        rollouts, within = divmod(state.global_step, self._gradient_steps)
        if within == 0:
            self._curve.after(rollouts, rollouts * self._completions)


class ShapedReward:
    """The reward of the run plus its length penalty, as TRL calls for it."""

    __name__ = "shaped_reward"

    def __init__(self, run: Run):
        self._reward, self._overlong = run.module.worker.reward, run.module.algorithm.overlong

    def __call__(
        self, prompts: list[str], completions: list[str], completion_ids: list[list[int]], answer: list[str], **_: Any
    ) -> list[float]:
        asked = [Prompt(text, expected, "trl") for text, expected in zip(prompts, answer, strict=True)]
        scores = torch.tensor([grade.score for grade in self._reward.submit(asked, completions)()])
        return (scores + self._overlong.penalty(torch.tensor([len(ids) for ids in completion_ids]))).tolist()


def settings(run: Run, micro_batch_rows: int, folder: str) -> GRPOConfig:
    """What our config says, in TRL's terms, whose `steps_per_generation` counts forward passes."""
    config = run.config
    rows = config.num_prompts_per_step * config.num_completions_per_prompt
    return GRPOConfig(
        output_dir=folder,
        seed=config.seed,
        max_steps=config.num_steps * config.num_gradient_steps,
        per_device_train_batch_size=micro_batch_rows,
        gradient_accumulation_steps=rows // config.num_gradient_steps // micro_batch_rows,
        steps_per_generation=rows // micro_batch_rows,
        num_generations=config.num_completions_per_prompt,
        max_completion_length=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        loss_type="dapo",
        scale_rewards="group",
        epsilon=1 - config.clip.lower,
        epsilon_high=config.clip.upper - 1,
        beta=0.0,
        max_grad_norm=config.max_gradient_norm,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


def main() -> None:
    run, arguments = set_up(__doc__, ("micro-batch-rows", 32))
    config, policy = run.config, run.module.worker.policy
    optimizer = instantiate(config.optimizer)(policy.model.parameters(), fused=True)
    rises, per_rollout = config.num_warmup_steps, config.num_gradient_steps
    schedule = torch.optim.lr_scheduler.LambdaLR(  # as ours: the same within a rollout, and above 0 in the first
        optimizer, lambda step: min(1.0, (step // per_rollout + 1) / rises)
    )
    prompts = instantiate(config.data).train_prompts()
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=policy.model,
            processing_class=policy.codec.tokenizer,
            reward_funcs=ShapedReward(run),
            train_dataset=Dataset.from_dict(
                {"prompt": [p.text for p in prompts], "answer": [p.answer for p in prompts]}
            ),
            args=settings(run, arguments.micro_batch_rows, folder),
            callbacks=[Recorder(run)],
            optimizers=(optimizer, schedule),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


if __name__ == "__main__":
    main()
