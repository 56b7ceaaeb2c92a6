"""The DAPO step as a LightningModule: fill a draw, prepare the experience, update the policy."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.distributed.sharding import FSDP2, exchanging_gradients, gathered, is_sharded, shard, whole
from dapo_lightning.draws.fill import GroupDraw
from dapo_lightning.draws.worker import GroupSampler
from dapo_lightning.forward.layout import shares_prompts
from dapo_lightning.forward.logprobs import completion_logps
from dapo_lightning.forward.packing import micro_batches, packed_micro_batches
from dapo_lightning.policy import Reference
from dapo_lightning.step import reporter as reporting
from dapo_lightning.step.experience import MiniBatch, Row, placeholder, prepare
from dapo_lightning.step.metrics import GroupRecord, evaluation_metrics
from dapo_lightning.step.objective import TokenSums, surrogate_loss
from dapo_lightning.types import Generation, Group, PendingGroup, PromptDraw
from dapo_lightning.utils.clock import Clock

log = logging.getLogger(__name__)

MAX_SKIPPED_IN_A_ROW = 5  # non-finite steps that may follow each other before the run is given up
PROGRESS_BAR = ("reward/mean", "accuracy", "entropy", "length/mean")


class NotFiniteError(RuntimeError):
    """Rewards, losses or gradients stayed NaN or infinite."""


class DAPOModule(L.LightningModule):
    """Owns the policy (and its reference copy, if the KL option needs one) and performs the DAPO step.

    Args:
        sampler: samples groups with the policy that is trained.
        algorithm: one choice for each technique.
        optimizer: parameters -> optimizer.
        num_completions: completions per prompt in training (G).
        num_gradient_steps: mini-batches per rollout.
        micro_batch_tokens: tokens per forward pass; bounds memory, cannot change the result.
        max_gradient_norm: gradients are scaled down to it.
        num_warmup_steps: DAPO steps over which the learning rate rises linearly to its value.
        evaluation: how held-out completions are sampled, and how many per prompt.
        logps_are_exact: whether the log-probs recorded at sampling equal those of a forward pass, and so may serve
            as old log-probs; otherwise they are recomputed (half precision: other kernels, other rounding).
    """

    def __init__(
        self,
        sampler: GroupSampler,
        algorithm: Algorithm,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        generation: Generation,
        num_completions: int,
        num_gradient_steps: int,
        micro_batch_tokens: int,
        max_gradient_norm: float,
        num_warmup_steps: int,
        evaluation: Generation,
        num_evaluation_completions: int,
        logps_are_exact: bool,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = all(weight.requires_grad for weight in sampler.policy.model.parameters())
        self.policy: PreTrainedModel = sampler.policy.model
        self.sampler, self.algorithm, self.generation = sampler, algorithm, generation
        self.num_completions, self.num_gradient_steps = num_completions, num_gradient_steps
        self.micro_batch_tokens, self.max_gradient_norm = micro_batch_tokens, max_gradient_norm
        self.evaluation, self.num_evaluation_completions = evaluation, num_evaluation_completions
        self.logps_are_exact = logps_are_exact
        self._optimizer, self._num_warmup_steps = optimizer, num_warmup_steps
        self._evaluator = replace(sampler, clock=Clock())  # its time counts as evaluation, not as generate and grade
        # A function, so that torch does not see the copy it holds: not trained, not in checkpoints.
        self._reference: Reference | None = None
        self.history = reporting.History()
        self.updating = False  # True while weights are between two DAPO steps: nothing to save then
        self.last_groups: list[Group] = []  # of the last step, for callbacks
        self.evaluated_groups: list[Group] = []  # of the last evaluation, this rank's, for callbacks
        self.last_metrics: dict[str, float] = {}
        self._records: list[GroupRecord] = []
        self._whole_policy = ExitStack()  # of an evaluation

    def setup(self, stage: str) -> None:
        """Takes the reference: the policy before the first step, for Lightning loads checkpoints and shards later."""
        if self.algorithm.kl.needs_reference and self._reference is None:
            self._reference = self.sampler.policy.reference()

    def configure_model(self) -> None:
        """Shards the policy and its reference, if the strategy is one that shards (trainer=fsdp2)."""
        if not isinstance(self.trainer.strategy, FSDP2) or is_sharded(self.policy):
            return
        mesh = self.trainer.strategy.device_mesh["data_parallel"]
        compute_dtype = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None
        if self._reference:
            with self._reference() as reference:
                shard(reference, mesh, compute_dtype)
        shard(self.policy, mesh, compute_dtype)

    def training_step(self, draw: GroupDraw, batch_idx: int) -> None:
        """One DAPO step: one rollout, `num_gradient_steps` gradient steps."""
        ranks, history = Ranks.current(), self.history
        clock_before, self._records = dict(self.sampler.clock.seconds), []
        with self.sampler.clock.rest("wait"):  # for other ranks, which may have longer completions, and their weights
            with gathered(self.policy):
                filled = draw.fill(self._sample, ranks)
            records = ranks.gather(self._records)
        if filled.warning:
            self._warn(filled.warning)

        outcomes: list[reporting.GradientStep] = []
        self.updating = True
        with self.sampler.clock("update"):
            if filled.surplus and not self.logps_are_exact:
                draw.carry(self._with_old_logps(filled.surplus, ranks))
            if self._rewards_are_finite(reporting.used_up(records, filled)):
                mini_batches = prepare(filled.groups, self.algorithm, self.num_gradient_steps, ranks)
                mini_batches = [self._with_logps(mini_batch) for mini_batch in mini_batches]
                for mini_batch in mini_batches:
                    outcomes.append(self._gradient_step(mini_batch, ranks))
            else:
                outcomes.append(reporting.GradientStep(TokenSums(), 0.0, skipped=True))
            scheduler = cast(LRScheduler, self.lr_schedulers())
            learning_rate = float(scheduler.get_last_lr()[0])
            scheduler.step()

        sums = sum((outcome.sums for outcome in outcomes if not outcome.skipped), TokenSums())
        seconds = {name: total - clock_before.get(name, 0.0) for name, total in self.sampler.clock.seconds.items()}
        metrics = reporting.step_metrics(records, filled, sums, outcomes, seconds, learning_rate)
        history.add_step(records, filled, sums)
        self.updating = False
        if self._reference:
            metrics["kl/reference"] = sums.kl_reference / max(1.0, sums.tokens)
        if self.algorithm.correction.reweights:
            metrics["correction/mean"] = sums.correction / max(1.0, sums.tokens)
            metrics["correction/capped_fraction"] = sums.correction_capped / max(1.0, sums.tokens)
        metrics |= {"steps/dapo": float(history.dapo_steps), "steps/gradient": float(history.gradient_steps)}
        self.last_groups, self.last_metrics = filled.groups, metrics
        self._log_step(metrics)

    def _sample(self, draws: Sequence[PromptDraw]) -> Iterator[list[PendingGroup]]:
        for together in self.sampler.generated(draws, self.num_completions, self.generation, "train"):
            yield [partial(self._recorded, pending) for pending in together]

    def _recorded(self, pending: PendingGroup) -> Group:
        group = pending()
        penalties = self.algorithm.overlong.penalty(group.lengths_G()).tolist()
        self._records.append(GroupRecord.of(group, penalties))
        return group

    def _rewards_are_finite(self, records: Sequence[GroupRecord]) -> bool:
        """Looks at all groups, kept or not: one of NaN rewards has nothing correct, so the keep rule would hide it."""
        bad = [record for record in records if not all(map(math.isfinite, record.rewards))]
        if bad:
            self._skip(f"the reward of {bad[0].source} is not finite ({list(bad[0].rewards)})")
        return not bad

    @torch.no_grad()
    def _with_old_logps(self, groups: Sequence[Group], ranks: Ranks) -> list[Group]:
        """Attaches the log-probs of the policy as it is now, before the update: the one that sampled these groups."""
        mine = ranks.mine(groups)
        rows = [Row(group.prompt_tokens, completion, 0.0, 0.0) for group in mine for completion in group.completions]
        logps = iter(self._logps(self.policy, rows))
        known = [
            replace(group, completions=tuple(replace(c, old_logps=next(logps).clone()) for c in group.completions))
            for group in mine
        ]
        return sorted(ranks.gather(known), key=lambda group: group.draw.number)

    @torch.no_grad()
    def _with_logps(self, mini_batch: MiniBatch) -> MiniBatch:
        """Attaches old log-probs and, if the KL option asks, those of the reference."""
        rows = mini_batch.rows
        if self.logps_are_exact:
            rows = [replace(row, old_logps=row.completion.logps) for row in rows]
        else:
            unknown = [row for row in rows if row.completion.old_logps is None]  # carried groups know theirs
            logps = iter(self._logps(self.policy, unknown))
            rows = [replace(row, old_logps=row.completion.old_logps) for row in rows]
            rows = [replace(row, old_logps=next(logps)) if row.old_logps is None else row for row in rows]
        if self._reference:
            with self._reference() as reference:
                logps_of_rows = self._logps(reference, rows)
            rows = [replace(row, reference_logps=logps) for row, logps in zip(rows, logps_of_rows, strict=True)]
        return replace(mini_batch, rows=rows)

    def _logps(self, model: PreTrainedModel, rows: Sequence[Row]) -> list[Tensor]:
        """Log-probs [T] of each row's completion, in the order of the rows."""
        found: dict[int, Tensor] = {}
        for part in self._in_step(self._micro_batches(model, rows)):
            prompts, completions = [row.prompt_tokens for row in part], [row.completion.tokens for row in part]
            logps_BT, _ = completion_logps(model, prompts, completions, self.generation.temperature)
            for row, logps_T in zip(part, logps_BT.cpu(), strict=True):
                found[id(row)] = logps_T[: row.completion.num_tokens]
        return [found[id(row)] for row in rows]

    def _gradient_step(self, mini_batch: MiniBatch, ranks: Ranks) -> reporting.GradientStep:
        """Forward and backward of every micro-batch, then one optimizer step, unless something is not finite."""
        if mini_batch.num_tokens == 0:  # all masked, or no group kept: the loss is 0
            self.history.skipped_steps += 1
            return reporting.GradientStep(TokenSums(), 0.0, skipped=True)
        parts = self._in_step(self._micro_batches(self.policy, mini_batch.rows))
        local = TokenSums()
        for index, rows in enumerate(parts):
            with (
                exchanging_gradients(self.trainer.strategy.model, index == len(parts) - 1),
                self.sampler.policy.recomputing_activations(),
            ):
                loss, part_sums = surrogate_loss(self.policy, rows, self.algorithm, self.generation.temperature)
                self.manual_backward(loss * ranks.size)  # the strategy averages over ranks; the weights want the sum
            local += part_sums
        sums = reporting.sum_over_ranks(local, ranks)
        norm = float(whole(nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_gradient_norm)))
        optimizer = cast(LightningOptimizer, self.optimizers())
        is_finite = math.isfinite(sums.loss) and math.isfinite(norm)
        if is_finite:
            optimizer.step()
            self.history.gradient_steps += 1
            self.history.skipped_in_a_row = 0
        optimizer.zero_grad()
        if not is_finite:
            self._skip(f"loss {sums.loss} with gradient norm {norm} is not finite")
        return reporting.GradientStep(sums, norm, skipped=not is_finite)

    def _micro_batches(self, model: PreTrainedModel, rows: Sequence[Row]) -> list[list[Row]]:
        """Weights are fixed beforehand, so the cut cannot change the loss."""
        if shares_prompts(model):
            return packed_micro_batches(
                rows, lambda row: row.prompt_tokens, lambda row: row.completion.num_tokens, self.micro_batch_tokens
            )
        return micro_batches(rows, lambda row: row.num_tokens, self.micro_batch_tokens)

    def _in_step(self, parts: list[list[Row]]) -> list[list[Row]]:
        """As many parts as the rank with the most has: forward and backward passes may be collectives."""
        return parts + [[self._placeholder()]] * (Ranks.current().max(len(parts)) - len(parts))

    def _placeholder(self) -> Row:
        row = placeholder(self.sampler.policy.codec.end_tokens[0])
        return replace(row, reference_logps=row.old_logps) if self._reference else row

    def _skip(self, reason: str) -> None:
        history = self.history
        history.skipped_steps += 1
        history.skipped_in_a_row += 1
        self._warn(f"{reason}; skipped.")
        if history.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise NotFiniteError(
                f"{history.skipped_in_a_row} updates in a row were skipped; the last because {reason}. "
                "Lower optimizer.lr, or look at the reward function and at the last checkpoint."
            )

    def _warn(self, message: str) -> None:
        if self.global_rank == 0:  # all ranks know the same
            log.warning("step %d: %s", self.history.dapo_steps + 1, message)

    def on_validation_epoch_start(self) -> None:
        self._records, self.evaluated_groups = [], []
        self._whole_policy.enter_context(gathered(self.policy))

    def validation_step(self, draws: list[PromptDraw], batch_idx: int) -> None:
        """Samples held-out prompts; noise has a stream of its own, the same at every evaluation."""
        with self.sampler.clock("evaluate"):
            groups = self._evaluator(draws, self.num_evaluation_completions, self.evaluation, "validation")
        self._records += [GroupRecord.of(group, [0.0] * group.size) for group in groups]
        self.evaluated_groups += groups

    def on_validation_epoch_end(self) -> None:
        self._whole_policy.close()
        metrics = evaluation_metrics(Ranks.current().gather(self._records))
        self.history.evaluations[self.history.dapo_steps] = metrics
        named = {f"validation/{name}": value for name, value in metrics.items()}
        self.log_dict(named | {"step": float(self.history.dapo_steps)}, rank_zero_only=True)

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer(weight for weight in self.policy.parameters() if weight.requires_grad)
        rises = max(1, self._num_warmup_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / rises))
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Weights that are not trained stay out: they are where the policy comes from."""
        checkpoint["state_dict"] = self._without_frozen(checkpoint["state_dict"])
        checkpoint["history"] = self.history.state_dict(self.sampler.clock)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Where frozen weights stay out, loading is not strict: what is missing must be told here. (A strategy that
        shards has loaded the weights already, strictly, and keeps them to itself.)"""
        ours = self._without_frozen(self.state_dict()).keys()
        different = ours ^ checkpoint["state_dict"].keys() if "state_dict" in checkpoint else set()
        if different:
            raise ValueError(
                f"the checkpoint holds other weights than the policy, as it is configured, trains (such as "
                f"{min(different)}): give the policy.* settings of the run that it comes from."
            )
        self.history.load_state_dict(checkpoint["history"], self.sampler.clock)

    def _without_frozen(self, state: dict[str, Any]) -> dict[str, Any]:
        weights = self.policy.named_parameters(remove_duplicate=False)  # tied ones have two names
        frozen = {f"policy.{name}" for name, weight in weights if not weight.requires_grad}
        return {name: weight for name, weight in state.items() if name not in frozen}

    def _log_step(self, metrics: dict[str, float]) -> None:
        """To the loggers themselves: `self.log` would repeat a metric at steps that did not measure it."""
        for logger in self.loggers:
            logger.log_metrics(metrics, self.history.dapo_steps)
        for name, value in metrics.items():
            self.log(name, value, prog_bar=name in PROGRESS_BAR, logger=False, rank_zero_only=True)
