"""Computes log-probs with the policy and its frozen reference, and divides rows so that they fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import lightning as L
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dapo_lightning.algorithm import Algorithm
from dapo_lightning.distributed.ranks import Ranks
from dapo_lightning.distributed.sharding import FSDP2, exchanging_gradients, fill, is_sharded, shard
from dapo_lightning.draws.exchange import completed
from dapo_lightning.draws.fill import Batch
from dapo_lightning.forward.layout import is_switched
from dapo_lightning.forward.logprobs import completion_logps
from dapo_lightning.forward.micro_batches import micro_batches, packed_micro_batches
from dapo_lightning.forward.ways import ways_of
from dapo_lightning.policy import Policy, Reference
from dapo_lightning.rollout.finite import NotFiniteError
from dapo_lightning.step.checkpoint import not_finite
from dapo_lightning.step.experience import Row, placeholder
from dapo_lightning.step.marks import with_marks
from dapo_lightning.step.places import places_of, with_fields
from dapo_lightning.types import Group, Trajectory


class StaleTrajectoryError(RuntimeError):
    """A trajectory was sampled by earlier weights, and its log-probs under them are unknown."""


@dataclass
class PolicyHost:
    """Runs the policy and its reference on rows.

    Args:
        temperature: sampling temperature; log-probs are computed at the same temperature.
        micro_batch_tokens: largest number of tokens in a forward pass.
        logps_are_exact: whether log-probs recorded while sampling equal those of a forward pass. They then serve as old
            log-probs, which are recomputed otherwise (in half precision, other kernels round differently).
    """

    policy: Policy
    temperature: float
    micro_batch_tokens: int
    logps_are_exact: bool
    _reference: Reference | None = field(default=None, init=False, repr=False)

    def take_reference(self) -> None:
        """Makes the current policy, without its adapters if it has any, the reference, unless there is one already."""
        self._reference = self._reference or self.policy.reference()

    def shard(self, trainer: L.Trainer) -> None:
        """Shards the policy and its reference, if the strategy shards (trainer=fsdp2)."""
        strategy, compute_dtype = trainer.strategy, torch.bfloat16 if trainer.precision == "bf16-mixed" else None
        if not isinstance(strategy, FSDP2) or is_sharded(self.policy.model):
            return
        mesh, models = strategy.device_mesh["data_parallel"], [self.policy.model]
        if self._reference:
            with self._reference() as reference:
                models = list({id(model): model for model in (reference, self.policy.model)}.values())
        for model in models:
            shard(model, mesh, compute_dtype)
        if self.policy.shards:  # read only now, so that no rank ever holds the whole model
            for model in models:
                fill(model, self.policy.shards())
            if (bad := not_finite(self.policy.model.state_dict())) is not None:
                raise NotFiniteError(f"policy: its weights are not finite ({bad}), so it cannot be used.")

    @torch.no_grad()
    def with_old_logps(self, batch: Batch, algorithm: Algorithm, policy_step: int, ranks: Ranks) -> Batch:
        """Adds the old log-probs of this rank's completions and of all surplus and unfinished groups to the batch (line
        3 of Algorithm 1). Trajectories that the overlong option excludes from the loss get none.

        This must run before the first gradient step, while the current weights are still those that sampled.

        Args:
            policy_step: number of DAPO steps that the policy has been trained for.

        Raises:
            StaleTrajectoryError: if tokens without old log-probs were sampled by other weights.
        """
        if self.logps_are_exact:
            groups, surplus = map(_with_recorded_logps, (batch.groups, batch.surplus))
            return replace(batch, groups=groups, surplus=surplus)
        later = (*batch.surplus, *(batch.unfinished or ()))
        unknown = {id(t) for g in (*batch.groups, *later) for t in _unknown(g, algorithm, policy_step)}
        mine = list(places_of(batch, ranks).values())
        mine += [(group.prompt_tokens, t) for group in ranks.mine(later) for t in group.trajectories]
        rows = [Row(prompt, trajectory) for prompt, trajectory in mine if id(trajectory) in unknown]
        logps = {
            id(row.trajectory): logps_T for row, logps_T in zip(rows, self.logps(self.policy.model, rows), strict=True)
        }

        def known(group: Group) -> Group:
            found = (_completed(t, logps.get(id(t))) if id(t) in unknown else t for t in group.trajectories)
            return replace(group, trajectories=tuple(found))

        homes, everyone = [place % ranks.size for place in range(len(later))], range(ranks.size)
        later = tuple(map(known, later))
        if later:
            later = completed(later, homes, lambda p, g: everyone, ["old_logps_T"], ranks)
        surplus, unfinished = later[: len(batch.surplus)], later[len(batch.surplus) :]
        batch = replace(batch, groups=tuple(map(known, batch.groups)), surplus=surplus)
        return batch if batch.unfinished is None else replace(batch, unfinished=unfinished)

    @torch.no_grad()
    def with_reference_logps(self, batch: Batch, ranks: Ranks) -> Batch:
        """Adds the log-probs of the reference, if there is one, to this rank's completions in the loss. All passes over
        the rollout use them."""
        if not self._reference:
            return batch
        mine = places_of(batch, ranks)
        with self._reference() as reference:
            logps = self.logps(reference, [Row(prompt, trajectory) for prompt, trajectory in mine.values()])
        found = {place: {"reference_logps_T": logps_T} for place, logps_T in zip(mine, logps, strict=True)}
        return replace(batch, groups=with_fields(batch.groups, found))

    @torch.no_grad()
    def marked(self, rows: Sequence[Row], algorithm: Algorithm, ranks: Ranks) -> list[Row]:
        """Adds to the rows of a mini-batch the marks of options that look at all of it (see `marks.py`)."""
        return with_marks(rows, algorithm, partial(self._statistics, self.policy.model), ranks)

    def micro_batches(self, rows: Sequence[Row], model: PreTrainedModel | None = None) -> list[list[Row]]:
        """Divides the rows into parts of at most `micro_batch_tokens` tokens. Every rank gets the same number of parts,
        because forward and backward passes may be collectives; parts without rows hold a placeholder."""
        if is_switched(model or self.policy.model):
            parts = packed_micro_batches(
                rows, lambda row: row.prompt_tokens, lambda row: len(row.trajectory.tokens_T), self.micro_batch_tokens
            )
        else:
            parts = [
                part
                for alike in _of_equal_padding(rows, model or self.policy.model)
                for part in micro_batches(alike, lambda row: row.num_tokens, self.micro_batch_tokens)
            ]
        missing = Ranks.current().max(len(parts)) - len(parts)
        return parts + [[placeholder(self.policy.codec.end_tokens[0])]] * missing

    @contextmanager
    def backward(self, wrapped: nn.Module | None, is_last: bool) -> Iterator[None]:
        """The context of a forward and backward pass. Ranks exchange gradients in the last pass of a gradient step."""
        with exchanging_gradients(wrapped, is_last), self.policy.recomputing_activations():
            yield

    @torch.no_grad()
    def logps(self, model: PreTrainedModel, rows: Sequence[Row]) -> list[Tensor]:
        """Log-probs of each row's tokens, [T], in the order of the rows, on the CPU. All ranks call it together."""
        return [logps_T for (logps_T,) in self._statistics(model, rows, with_entropies=False)]

    def _statistics(
        self, model: PreTrainedModel, rows: Sequence[Row], with_entropies: bool = True
    ) -> list[tuple[Tensor, ...]]:
        """Log-probs, and entropies if wanted, of each row's tokens, as in `logps`."""
        compute = partial(completion_logps, temperature=self.temperature, with_entropies=with_entropies)
        return self.of_tokens(compute, model, rows)

    def of_tokens(
        self, compute: Callable[..., Sequence[Tensor | None]], model: PreTrainedModel, rows: Sequence[Row]
    ) -> list[tuple[Tensor, ...]]:
        """Returns what `compute` gives for each row's tokens, [T] each, in the order of the rows, on the CPU."""
        found: dict[int, tuple[Tensor, ...]] = {}
        for part in self.micro_batches(rows, model):
            prompts, written = [row.prompt_tokens for row in part], [row.trajectory.tokens_T for row in part]
            values = [values_BT.cpu() for values_BT in compute(model, prompts, written) if values_BT is not None]
            for b, row in enumerate(part):
                found[id(row)] = tuple(values_BT[b, : len(row.trajectory.tokens_T)].clone() for values_BT in values)
        return [found[id(row)] for row in rows]


def _of_equal_padding(rows: Sequence[Row], model: PreTrainedModel) -> list[list[Row]]:
    """The rows that may run together: all of them, or those with equally long prompts."""
    if ways_of(model).pads_prompts:
        return [list(rows)]
    lengths = sorted({len(row.prompt_tokens) for row in rows})
    return [[row for row in rows if len(row.prompt_tokens) == length] for length in lengths]


def _unknown(group: Group, algorithm: Algorithm, policy_step: int) -> list[Trajectory]:
    """The trajectories of a group whose old log-probs must be computed now, at least those of their last tokens."""
    in_loss = algorithm.overlong.loss_mask(group.truncated_G()).tolist()
    of_loss = [t for t, counts in zip(group.trajectories, in_loss, strict=True) if counts]
    unknown = [t for t in of_loss if _num_known(t) < len(t.tokens_T)]
    for trajectory in unknown:
        if trajectory.policy_step != policy_step or _num_known(trajectory) < trajectory.num_earlier:
            raise StaleTrajectoryError(
                f"a trajectory was sampled after {trajectory.policy_step} DAPO steps, but the policy has been trained "
                f"for {policy_step}, so its log-probs under the weights that sampled it can no longer be computed. Set "
                "old_logps_T on trajectories that are kept for later steps."
            )
    return unknown


def _num_known(trajectory: Trajectory) -> int:
    """The number of tokens, from the first on, whose old log-probs are known."""
    return 0 if trajectory.old_logps_T is None else len(trajectory.old_logps_T)


def _completed(trajectory: Trajectory, logps_T: Tensor | None) -> Trajectory:
    """Adds the old log-probs that were unknown; None if another rank has computed them."""
    if logps_T is None:
        return replace(trajectory, old_logps_T=trajectory.logps_T.to("meta"))
    if trajectory.old_logps_T is not None:
        logps_T = torch.cat([trajectory.old_logps_T, logps_T[len(trajectory.old_logps_T) :]])
    return replace(trajectory, old_logps_T=logps_T)


def _with_recorded_logps(groups: Sequence[Group]) -> tuple[Group, ...]:
    def known(trajectory: Trajectory) -> Trajectory:
        has_none = trajectory.old_logps_T is None
        return replace(trajectory, old_logps_T=trajectory.logps_T) if has_none else trajectory

    return tuple(replace(group, trajectories=tuple(map(known, group.trajectories))) for group in groups)
