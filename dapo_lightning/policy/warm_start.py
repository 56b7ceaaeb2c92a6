"""The supervised warm start: worked examples -> the SFT model from which DAPO starts."""

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
from dapo_lightning.forward.micro_batches import micro_batches
from dapo_lightning.policy import Policy, tiny
from dapo_lightning.utils.atomic import replacing

_MICRO_BATCH_TOKENS = 1024  # with padding, which costs more than additional short passes


@runtime_checkable
class Teacher(Protocol):
    """A dataset that also has worked examples."""

    def worked_examples(self, count: int, seed: int) -> list[WorkedExample]: ...


@dataclass(frozen=True)
class WarmStart:
    """Next-token training on worked examples with a loss on the solution only; the learning rate rises linearly over a
    tenth of the steps, then falls linearly to zero.

    Args:
        num_steps: gradient steps.
        batch_size: worked examples per step; no example is used twice.
        learning_rate: the highest value, reached after warm-up.
        max_solution_tokens: longer solutions are truncated, without an end token, as sampling would truncate them.
        seed: selects the worked examples.
    """

    num_steps: int
    batch_size: int
    learning_rate: float
    max_solution_tokens: int
    seed: int

    def __call__(self, policy: Policy, dataset: Dataset, description: str, cache: Path) -> None:
        """Trains the policy in place, or loads the result of an earlier call with the same settings from `cache`.

        Args:
            description: all settings of the policy that determine the result, as text.

        Raises:
            ValueError: if the dataset has no worked examples.
        """
        if not isinstance(dataset, Teacher):
            raise ValueError(
                f"{type(dataset).__name__} has no worked examples for the warm start of policy=tiny: choose another "
                "policy, such as policy=smollm2, or set policy.warm_start to the folder of a policy, or to null for "
                "random weights."
            )
        path = cache / f"{self._key(description, dataset)}.safetensors"
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # several ranks or sweep jobs may need it at once
            if not path.exists():
                self._train(policy, dataset)
                with replacing(path) as partial:
                    save_model(policy.model, str(partial))
        load_model(policy.model, str(path))

    def _key(self, description: str, dataset: Dataset) -> str:
        """A hash of everything that determines the result: settings, and the code of examples, policy and training."""
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
        encode, end = policy.codec.encode_text, policy.codec.tokenizer.eos_token_id
        solutions_T = [torch.tensor([*encode(e.solution), end])[: self.max_solution_tokens] for e in examples]
        rows = [(encode(e.prompt), solution_T) for e, solution_T in zip(examples, solutions_T, strict=True)]
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
