"""The DAPO step as a LightningModule. `training_step` is Algorithm 1 of the paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.algorithm.tokens import Reduced
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.distributed.sharding import full_tensor, gathered
from dapo_lightning.draws.fill import Batch, PromptDraws, fill
from dapo_lightning.draws.worker import RolloutWorker
from dapo_lightning.step import guard, shares
from dapo_lightning.step.checkpoint import check_weights, without_frozen
from dapo_lightning.step.evaluation import Evaluation
from dapo_lightning.step.experience import MiniBatch, advantages, split
from dapo_lightning.step.host import PolicyHost
from dapo_lightning.step.objective import summed, surrogate_loss
from dapo_lightning.step.reporter import step_metrics
from dapo_lightning.step.result import History, StepResult, Update
from dapo_lightning.step.schedule import scheduled
from dapo_lightning.types import Generation, Group, NumberedPrompt, PendingGroup

PROGRESS_BAR = ("reward/mean", "accuracy", "entropy", "length/mean")


class DAPOModule(L.LightningModule):
    """Owns the policy, and its reference copy if the KL option needs one, and performs the DAPO step.

    Args:
        worker: samples groups with the policy that is trained.
        algorithm: one option for each technique.
        optimizer: parameters -> optimizer.
        generation: how completions are sampled in training.
        evaluation: how completions of held-out prompts are sampled; None samples them as in training.
        num_completions: completions per prompt in training (G).
        num_evaluation_completions: completions per held-out prompt.
        num_gradient_steps: mini-batches per rollout.
        micro_batch_tokens: largest number of tokens in a forward pass; it affects memory, but not the result.
        max_gradient_norm: gradients with a larger norm are scaled down to it.
        schedule: optimizer -> the schedule of its learning rate, in DAPO steps.
        logps_are_exact: see `PolicyHost`.
    """

    def __init__(
        self,
        worker: RolloutWorker,
        algorithm: Algorithm,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        generation: Generation,
        evaluation: Generation | None = None,
        num_completions: int = 16,
        num_evaluation_completions: int = 8,
        num_gradient_steps: int = 4,
        micro_batch_tokens: int = 4096,
        max_gradient_norm: float = 1.0,
        schedule: Callable[[Optimizer], LRScheduler] = scheduled,
        logps_are_exact: bool = False,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.model: PreTrainedModel = worker.policy.model
        self.strict_loading = all(weight.requires_grad for weight in self.model.parameters())
        self.worker, self.algorithm, self.clock = worker, algorithm, worker.clock
        self.host = PolicyHost(worker.policy, generation.temperature, micro_batch_tokens, logps_are_exact)
        self.generation, self.num_completions = generation, num_completions
        self.evaluation, self.num_evaluation_completions = evaluation or generation, num_evaluation_completions
        self.num_gradient_steps, self.max_gradient_norm = num_gradient_steps, max_gradient_norm
        self._optimizer, self._schedule = optimizer, schedule
        self.history = History()
        self._evaluation = Evaluation()

    def training_step(self, draws: PromptDraws, batch_idx: int) -> dict[str, StepResult]:
        """Lines 2 to 11 of Algorithm 1: one rollout, then a gradient step on each of its mini-batches."""
        algorithm, ranks = self.algorithm, Ranks.current()
        with self.clock.remainder("wait"), gathered(self.model):  # lines 2-8: sample, keep if 0 < correct < G (Eq. 11)
            batch = fill(draws, self.sample, algorithm.sampling, ranks)
        with self.clock("update"):
            batch = shares.exchange(batch, algorithm, self.num_gradient_steps, ranks)  # each completion to its rank
            batch = self.host.with_old_logps(batch, algorithm, self.history.dapo_steps, ranks)  # line 3: old log-probs
            rewards_PG = batch.scores_PG() + algorithm.overlong.penalty(batch.lengths_PG())  # overlong (Eq. 13)
            advantages_PGX = advantages(rewards_PG, batch.groups, algorithm)  # line 9: advantage (Eq. 9)
            mini_batches = split(batch, advantages_PGX, algorithm, self.num_gradient_steps, ranks)  # line 10
            updates = tuple(self.gradient_step(rows, ranks) for rows in mini_batches)  # 11: ratio, clip, loss (Eq. 8)
        return {"step": self._finish(draws, batch, mini_batches, updates)}

    def sample(self, prompts: Sequence[NumberedPrompt]) -> Iterator[list[PendingGroup]]:
        """Lines 4 and 5 of Algorithm 1: G completions for each prompt from the current policy, and their rewards."""
        step = self.history.dapo_steps
        return self.worker.generate(prompts, self.num_completions, self.generation, "train", policy_step=step)

    def gradient_step(self, mini_batch: MiniBatch, ranks: Ranks) -> Update:
        """Runs forward and backward passes on all micro-batches and takes one optimizer step, or skips it if a value is
        not finite or no token is in the loss."""
        if mini_batch.num_tokens == 0:  # all rows are masked, no group was kept, or a reward is not finite
            return Update(is_taken=False, problem=mini_batch.problem)
        parts = self.host.micro_batches(self.host.prepared(mini_batch.rows, self.algorithm, ranks))
        loss, metrics = 0.0, list[dict[str, Reduced]]()
        for number, rows in enumerate(parts, start=1):
            with self.host.backward(self.trainer.strategy.model, is_last=number == len(parts)):
                part, part_metrics = surrogate_loss(self.model, rows, self.algorithm, self.generation.temperature)
                self.manual_backward(part * ranks.size)  # the strategy averages over ranks, the loss is the sum
            loss += float(part.detach())
            metrics.append(part_metrics)
        everyones = ranks.gather([(loss, summed(metrics))])
        loss = sum(loss for loss, _ in everyones)
        norm = float(full_tensor(nn.utils.clip_grad_norm_(self.model.parameters(), self.max_gradient_norm)))
        optimizer = cast(LightningOptimizer, self.optimizers())
        is_finite = math.isfinite(loss) and math.isfinite(norm)
        if is_finite:
            optimizer.step()
        optimizer.zero_grad()
        problem = None if is_finite else f"loss {loss} with gradient norm {norm} is not finite"
        return Update(is_finite, loss, norm, mini_batch.num_tokens, summed([m for _, m in everyones]), problem)

    def _finish(
        self, draws: PromptDraws, batch: Batch, mini_batches: list[MiniBatch], updates: tuple[Update, ...]
    ) -> StepResult:
        """Adds the step to the history and logs its metrics."""
        guard.check(batch, updates, self.history)
        learning_rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        cast(LRScheduler, self.lr_schedulers()).step()
        self.history, draws.state = self.history.after(batch, updates), batch.next_state  # from here on, it counts
        history = self.history
        metrics = step_metrics(batch, updates, self.algorithm.overlong, self.clock.lap(), learning_rate)
        metrics |= {"steps/dapo": float(history.dapo_steps), "steps/gradient": float(history.gradient_steps)}
        for logger in self.loggers:  # `self.log` would repeat a metric at steps that did not measure it
            logger.log_metrics(metrics, history.dapo_steps)
        for name, value in metrics.items():
            self.log(name, value, prog_bar=name in PROGRESS_BAR, logger=False, rank_zero_only=True)
        self.algorithm = self.algorithm.adapted(metrics)
        return StepResult(history.dapo_steps, batch, tuple(mini_batches), updates, metrics)

    def on_validation_epoch_start(self) -> None:
        self._evaluation.start(self.model)

    def validation_step(self, prompts: list[NumberedPrompt], batch_idx: int) -> dict[str, list[Group]]:
        """Samples completions of held-out prompts, with a noise stream that is the same in every evaluation."""
        with self.clock("evaluate"):
            groups = self.worker(prompts, self.num_evaluation_completions, self.evaluation, "validation")
        self._evaluation.add(groups)
        return {"groups": groups}

    def on_validation_epoch_end(self) -> None:
        metrics = self._evaluation.finish()
        self.history = self.history.evaluated(metrics)
        named = {f"validation/{name}": value for name, value in metrics.items()}
        self.log_dict(named | {"step": float(self.history.dapo_steps)}, rank_zero_only=True)

    def setup(self, stage: str) -> None:
        """Takes the reference before Lightning loads a checkpoint or shards the policy."""
        # cuDNN plans anew for every shape of attention: on an H100 in bf16, an update took 2 to 5 s; 0.2 s without it.
        torch.backends.cuda.enable_cudnn_sdp(False)
        if self.algorithm.kl.needs_reference:
            self.host.take_reference()

    def configure_model(self) -> None:
        self.host.shard(self.trainer.strategy, torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None)

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer(weight for weight in self.model.parameters() if weight.requires_grad)
        return {"optimizer": optimizer, "lr_scheduler": self._schedule(optimizer)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = without_frozen(checkpoint["state_dict"], self)
        checkpoint["history"] = self.history.state_dict() | {"seconds": dict(self.clock.seconds)}
        checkpoint["algorithm"] = self.algorithm.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_weights(checkpoint, self)
        state = dict(checkpoint["history"])
        self.clock.load(state.pop("seconds"))
        self.history, self.algorithm = self.history.loaded(state), self.algorithm.loaded(checkpoint["algorithm"])
