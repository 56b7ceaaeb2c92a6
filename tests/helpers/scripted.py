"""A rollout that solves sums such as `3a+4=`, right or wrong as its random numbers say, and a few rewards for it."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Scripted:
    """Writes `#7`, or, for a third of the completions, `#8`; a share of 0 or 1 makes all wrong or right."""

    right: float = 0.67
    max_rows: int | None = None
    dtype: str | None = None
    exact_logps = True

    def __call__(self, model, prompts, noise_PGT, generation, end_tokens):
        import torch

        from dapo_lightning.policy.tiny import tiny_tokenizer
        from dapo_lightning.types import Completion

        tokenizer = tiny_tokenizer()
        for prompt, noise_GT in zip(prompts, noise_PGT, strict=True):
            total = sum(map(int, re.findall(r"[+-]?\d+", tokenizer.decode(prompt))))
            completions = []
            for noise_T in noise_GT:
                text = f"#{total + int(noise_T[0] > self.right)}"
                tokens_T = torch.tensor([*tokenizer(text)["input_ids"][: len(text)], end_tokens[0]])
                cut_T = tokens_T[: generation.max_new_tokens]
                zeros_T = torch.zeros(len(cut_T))
                completions.append(Completion(cut_T, zeros_T - 1, zeros_T, truncated=len(cut_T) < len(tokens_T)))
            yield [tuple(completions)]


def number(completions, answers, **_):
    """Knows no leading zeros in references."""
    found = [completion.rpartition("#")[2].strip() for completion in completions]
    return [float(one == answer.lstrip("0")) for one, answer in zip(found, answers, strict=True)]


def accepts_all(completions, **_):
    return [1.0 for _ in completions]


def accepts_any_number(completions, **_):
    return [float(completion[-1:].isdigit()) for completion in completions]


def dislikes_nine(completions, answers, **_):
    if any(completion.strip() == "#9" for completion in completions):
        raise ValueError("a nine")
    return number(completions, answers)


def noisy(completions, answers, **_):
    return [score + random.random() / 10 for score in number(completions, answers)]


def needs_a_column(completions, level):
    return [1.0 for _ in completions]
