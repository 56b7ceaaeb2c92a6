"""A limit on the length of prompts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tqdm import tqdm

from dapo_lightning.data import DataError
from dapo_lightning.types import Prompt

log = logging.getLogger(__name__)

Encode = Callable[[Prompt], Sequence[int]]
_SHOW_PROGRESS_FROM = 5000  # prompts


@dataclass(frozen=True)
class LengthLimit:
    """The maximum length of a prompt, in tokens.

    Args:
        max_prompt_tokens: longer prompts are dropped and counted; None drops none.
        max_new_tokens: number of tokens in the longest completion.
        max_positions: number of positions of the policy; None if it states no limit.
        max_message_tokens: number of tokens that an environment may write between the turns of a completion.

    Raises:
        DataError: if the longest prompt and the longest completion together exceed the positions of the policy.
    """

    max_prompt_tokens: int | None
    max_new_tokens: int
    max_positions: int | None = None
    max_message_tokens: int = 0

    def __post_init__(self) -> None:
        if self.max_prompt_tokens is not None and self.max_prompt_tokens < 1:
            raise DataError(f"max_prompt_tokens={self.max_prompt_tokens}: must be at least 1, or null.")
        if self.max_positions is not None and self.max_positions < self.after_prompt + (self.max_prompt_tokens or 1):
            raise DataError(
                f"max_prompt_tokens={self.max_prompt_tokens} and max_new_tokens={self.max_new_tokens}"
                f"{self._messages()} together exceed the {self.max_positions} positions of the policy: lower one of "
                "them."
            )

    @property
    def after_prompt(self) -> int:
        """Number of tokens that may follow a prompt."""
        return self.max_new_tokens + self.max_message_tokens

    def _messages(self) -> str:
        return (
            f", and {self.max_message_tokens} tokens of messages (see environment)," if self.max_message_tokens else ""
        )

    def filter(self, prompts: Sequence[Prompt], encode: Encode, split: str) -> tuple[list[Prompt], int]:
        """Returns the prompts that are short enough, and the tokens of the longest of them.

        Raises:
            DataError: if a prompt cannot be encoded, if one is too long for the policy, or if none is left.
        """
        if not prompts:
            raise DataError(f"the {split} split is empty: check the file or the settings of the data group.")
        shown = tqdm(prompts, desc=f"{split} prompts", unit="prompt", disable=len(prompts) < _SHOW_PROGRESS_FROM)
        lengths = [len(encode(prompt)) for prompt in shown]
        if self.max_prompt_tokens is None:
            self._check_longest(prompts, lengths)
            return list(prompts), max(lengths)
        short = [length for length in lengths if length <= self.max_prompt_tokens]
        kept = [p for p, length in zip(prompts, lengths, strict=True) if length <= self.max_prompt_tokens]
        if not kept:
            raise DataError(
                f"all {len(prompts)} {split} prompts have more than max_prompt_tokens={self.max_prompt_tokens} tokens "
                f"(the shortest has {min(lengths)}): raise it."
            )
        if len(kept) < len(prompts):
            log.warning("dropped %d of %d %s prompts: more than max_prompt_tokens=%d tokens",
                        len(prompts) - len(kept), len(prompts), split, self.max_prompt_tokens)  # fmt: skip
        return kept, max(short)

    def _check_longest(self, prompts: Sequence[Prompt], lengths: Sequence[int]) -> None:
        length, index = max((length, index) for index, length in enumerate(lengths))
        if self.max_positions is not None and length + self.after_prompt > self.max_positions:
            raise DataError(
                f"{prompts[index].source}: {length} tokens, and max_new_tokens={self.max_new_tokens} more"
                f"{self._messages() or ','} exceed the {self.max_positions} positions of the policy. Set "
                "max_prompt_tokens to drop such prompts, or lower max_new_tokens."
            )
