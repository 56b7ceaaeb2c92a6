"""The DAPO step as a LightningModule. `training_step` is Algorithm 1 of the paper."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.distributed.sharding import with_states
from dapo_lightning.draws.fill import Batch, PromptDraws, fill
from dapo_lightning.draws.worker import RolloutWorker
from dapo_lightning.step import guard, shares
from dapo_lightning.step.checkpoint import check_weights, without_frozen
from dapo_lightning.step.evaluation import EvaluatedModule, HeldOut
from dapo_lightning.step.experience import MiniBatch, advantages, shuffles, split
from dapo_lightning.step.gradient import gradient_of
from dapo_lightning.step.host import PolicyHost
from dapo_lightning.step.objective import surrogate_loss
from dapo_lightning.step.reporter import log_step, step_metrics
from dapo_lightning.step.result import History, StepResult, Update
from dapo_lightning.step.schedule import scheduled
from dapo_lightning.types import Generation, NumberedPrompt, PendingGroup, Slice


class DAPOModule(EvaluatedModule):
    """Owns the policy, and its reference copy if the KL option needs one, and performs the DAPO step.

    Args:
        worker: samples groups with the policy that is trained.
        algorithm: one option for each technique.
        optimizer: parameter groups -> optimizer.
        generation: how completions are sampled in training.
        evaluation: how completions of held-out prompts are sampled; None samples them as in training.
        num_completions: completions per prompt in training (G).
        num_evaluation_completions: completions per held-out prompt.
        held_out_sets: further held-out sets by name.
        num_gradient_steps: mini-batches per pass over a rollout.
        micro_batch_tokens: largest number of tokens in a forward pass; it affects memory, but not the result.
        max_gradient_norm: gradients with a larger norm are scaled down to it.
        schedule: optimizer -> the schedule of its learning rate, in DAPO steps.
        num_epochs: passes over a rollout. The first one takes the groups in order, each further one is shuffled.
        logps_are_exact: see `PolicyHost`.
    """

    def __init__(
        self,
        worker: RolloutWorker,
        algorithm: Algorithm,
        optimizer: Callable[[Iterable[Any]], Optimizer],
        generation: Generation,
        evaluation: Generation | None = None,
        num_completions: int = 16,
        num_evaluation_completions: int = 8,
        held_out_sets: Mapping[str, HeldOut] | None = None,
        num_gradient_steps: int = 4,
        num_epochs: int = 1,
        micro_batch_tokens: int = 4096,
        max_gradient_norm: float = 1.0,
        schedule: Callable[..., LRScheduler] = scheduled,
        logps_are_exact: bool = False,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.model: PreTrainedModel = worker.policy.model
        self.strict_loading = all(weight.requires_grad for weight in self.model.parameters())
        self.worker, self.algorithm, self.clock = worker, algorithm, worker.clock
        self.host = PolicyHost(worker.policy, generation.temperature, micro_batch_tokens, logps_are_exact)
        self.generation, self.num_completions = generation, num_completions
        of_data = HeldOut(worker, evaluation or generation, num_evaluation_completions)
        self.start_evaluating({"": of_data, **(held_out_sets or {})})
        self.num_gradient_steps, self.max_gradient_norm = num_gradient_steps, max_gradient_norm
        self.num_epochs = num_epochs
        self._optimizer, self._schedule = optimizer, schedule
        self.history = History()

    def training_step(self, draws: PromptDraws, batch_idx: int) -> dict[str, StepResult]:
        """Lines 2 to 11 of Algorithm 1: one rollout, then a gradient step on each of its mini-batches."""
        algorithm, ranks = self.algorithm, Ranks.current()
        with self.clock.remainder("wait"), self.worker.ready():  # lines 2-8: sample, keep if 0 < correct < G (Eq. 11)
            batch = fill(draws, self.sample, algorithm.sampling, ranks)
        with self.clock("update"):
            batch = shares.exchange(batch, algorithm, self.num_gradient_steps, self.num_epochs, ranks)
            rewards_PG = batch.scores_PG() + algorithm.overlong.penalty(batch.lengths_PG())  # overlong (Eq. 13)
            batch = self.with_old_policy(batch, rewards_PG, ranks)  # line 3: old log-probs
            advantages_PGX = advantages(rewards_PG, batch.groups, algorithm)  # line 9: advantage (Eq. 9)
            mini_batches = self.mini_batches(batch, advantages_PGX, ranks)  # line 10
            updates = tuple(self.gradient_step(rows, ranks) for rows in mini_batches)  # 11: ratio, clip, loss (Eq. 8)
        return {"step": self._finish(draws, batch, mini_batches, updates)}

    def sample(self, prompts: Sequence[NumberedPrompt], part: Slice | None = None) -> Iterator[list[PendingGroup]]:
        """Lines 4 and 5 of Algorithm 1: G completions for each prompt from the current policy, and their rewards."""
        step = self.history.dapo_steps
        return self.worker.generate(prompts, self.num_completions, self.generation, "train", step, part)

    def with_old_policy(self, batch: Batch, rewards_PG: Tensor, ranks: Ranks) -> Batch:
        """Adds log-probs of the completions under the weights that sampled them, and under the reference."""
        batch = self.host.with_old_logps(batch, self.algorithm, self.history.dapo_steps, ranks)
        return self.host.with_reference_logps(batch, ranks)

    def mini_batches(self, batch: Batch, advantages_PGX: Tensor, ranks: Ranks) -> list[MiniBatch]:
        """The mini-batches of all passes over the rollout."""
        orders = shuffles(self.num_epochs, len(batch.groups), self.worker.seed, self.history.dapo_steps)
        return split(batch, advantages_PGX, self.algorithm, self.num_gradient_steps, ranks, orders)

    def gradient_step(self, mini_batch: MiniBatch, ranks: Ranks) -> Update:
        """Takes one optimizer step, or skips it if a value is not finite or no token is in the loss."""
        if mini_batch.num_tokens == 0:  # all rows are masked, no group was kept, or a reward is not finite
            return Update(is_taken=False, problem=mini_batch.problem)
        update, optimizer = self.gradient(mini_batch, ranks), cast(LightningOptimizer, self.optimizers())
        if update.is_taken:
            optimizer.step()
        optimizer.zero_grad()
        return update

    def gradient(self, mini_batch: MiniBatch, ranks: Ranks) -> Update:
        """Computes the gradient of a mini-batch, which is then stored in the weights."""
        mini_batch = replace(mini_batch, rows=tuple(self.host.marked(mini_batch.rows, self.algorithm, ranks)))
        loss_of = partial(surrogate_loss, self.model, algorithm=self.algorithm, temperature=self.generation.temperature)
        return gradient_of(mini_batch, self.host, loss_of, self, self.max_gradient_norm, ranks)

    def _finish(
        self, draws: PromptDraws, batch: Batch, mini_batches: list[MiniBatch], updates: tuple[Update, ...]
    ) -> StepResult:
        """Adds the step to the history and logs its metrics."""
        guard.check(batch, updates, self.history, self.failures)
        learning_rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        cast(LRScheduler, self.lr_schedulers()).step()
        self.history, draws.state = self.history.after(batch, updates), batch.next_state  # from here on, it counts
        overlong, reward = self.algorithm.overlong, self.worker.reward
        metrics = step_metrics(batch, updates, overlong, reward, self.clock.lap(), learning_rate, self.history)
        log_step(self, metrics, self.history.dapo_steps)
        self.algorithm = self.algorithm.adapted(metrics)
        return StepResult(self.history.dapo_steps, batch, tuple(mini_batches), updates, metrics)

    def setup(self, stage: str) -> None:
        """Takes the reference before Lightning loads a checkpoint or shards the policy."""
        # cuDNN makes a plan for every shape of attention: on an H100 in bf16, an update took 2 to 5 s; without, 0.2 s.
        torch.backends.cuda.enable_cudnn_sdp(False)
        if self.algorithm.kl.needs_reference:
            self.host.take_reference()

    def configure_model(self) -> None:
        self.host.shard(self.trainer)

    def trained_weights(self) -> list[dict[str, Any]]:
        """The parameter groups of the optimizer."""
        return [{"params": [weight for weight in self.model.parameters() if weight.requires_grad]}]

    def configure_optimizers(self) -> Any:
        optimizer = with_states(self._optimizer(self.trained_weights()), self.model)
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
