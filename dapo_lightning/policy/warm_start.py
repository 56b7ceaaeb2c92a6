"""The supervised warm start: worked examples -> the SFT model that DAPO starts from."""

from __future__ import annotations

import hashlib
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
import transformers
from filelock import FileLock
from safetensors.torch import load_model, save_model
from torch import nn
from tqdm import tqdm

from dapo_lightning.data import Dataset, WorkedExample
from dapo_lightning.forward.logprobs import completion_logps
from dapo_lightning.forward.packing import micro_batches
from dapo_lightning.policy import Policy, tiny
from dapo_lightning.utils.atomic import replacing

_MICRO_BATCH_TOKENS = 1024  # padded; small, because padding costs more than a short pass does


@runtime_checkable
class Teacher(Protocol):
    """A dataset that can also show worked examples."""

    def worked_examples(self, count: int, seed: int) -> list[WorkedExample]: ...


@dataclass(frozen=True)
class WarmStart:
    """Next-token training on worked examples, loss on the solution only; linear warm-up over a tenth of the steps,
    then linear decay to zero.

    Args:
        num_steps: gradient steps.
        batch_size: worked examples per step; none is shown twice.
        learning_rate: the highest, reached after warm-up.
        max_solution_tokens: longer solutions are cut there, without an end token, as sampling would cut them.
        seed: which worked examples.
    """

    num_steps: int
    batch_size: int
    learning_rate: float
    max_solution_tokens: int
    seed: int

    def __call__(self, policy: Policy, dataset: Dataset, description: str, cache: Path) -> None:
        """Trains the policy in place, or loads what an earlier call with the same settings left under `cache`.

        Args:
            description: everything about the policy that decides the outcome, as text.

        Raises:
            ValueError: if the dataset has no worked examples.
        """
        if not isinstance(dataset, Teacher):
            raise ValueError(
                f"{type(dataset).__name__} has no worked examples for a warm start: set policy.warm_start to the "
                "folder of a policy, or to null for random weights."
            )
        path = cache / f"{self._key(description, dataset)}.safetensors"
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # several ranks or sweep jobs may want it at once
            if not path.exists():
                self._train(policy, dataset)
                with replacing(path) as partial:
                    save_model(policy.model, str(partial))
        load_model(policy.model, str(path))

    def _key(self, description: str, dataset: Dataset) -> str:
        """A hash of all that determines the result: settings, and the code that makes and shows the examples."""
        names = (__name__, tiny.__name__, completion_logps.__module__, type(dataset).__module__)
        code = "".join(inspect.getsource(sys.modules[name]) for name in names)
        versions = f"{torch.__version__} {transformers.__version__}"
        return hashlib.sha256(f"{description}|{dataset!r}|{versions}|{code}".encode()).hexdigest()[:16]

    def _train(self, policy: Policy, teacher: Teacher) -> None:
        model = policy.model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=self.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
        rises = max(1, self.num_steps // 10)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / rises, (self.num_steps - step) / (self.num_steps - rises + 1))
        )
        examples = teacher.worked_examples(self.num_steps * self.batch_size, self.seed)
        end = torch.tensor([policy.codec.tokenizer.eos_token_id])
        rows = [
            (
                policy.codec.encode_text(e.prompt),
                torch.cat([torch.tensor(policy.codec.encode_text(e.solution)), end])[: self.max_solution_tokens],
            )
            for e in examples
        ]
        bar = tqdm(range(self.num_steps), desc="warm start", unit="step")
        for step in bar:
            batch = rows[step * self.batch_size : (step + 1) * self.batch_size]
            num_tokens = sum(len(solution) for _, solution in batch)
            loss = 0.0
            for part in micro_batches(batch, lambda row: len(row[0]) + len(row[1]), _MICRO_BATCH_TOKENS):
                prompts, solutions = zip(*part, strict=True)
                logps_BT, _ = completion_logps(model, prompts, solutions, temperature=1.0)
                part_loss = -logps_BT.sum() / num_tokens
                part_loss.backward()
                loss += part_loss.item()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            if step % 10 == 0:
                bar.set_postfix(loss=f"{loss:.3f}")
