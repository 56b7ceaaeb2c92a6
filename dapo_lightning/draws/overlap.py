"""Finds held-out prompts that are also train prompts."""

from __future__ import annotations

from collections.abc import Sequence

from dapo_lightning.types import Prompt


def repeated(train: Sequence[Prompt], held_out: Sequence[Prompt]) -> list[tuple[str, str]]:
    """Finds the held-out prompts that equal a train prompt up to white space and case. Chats are compared by the
    contents of their messages.

    Returns:
        For each of them, in order, the source of the first train prompt that equals it, and its own source.
    """
    first: dict[tuple[str, ...], str] = {}
    for prompt in train:
        first.setdefault(key_of(prompt), prompt.source)
    keys = ((key_of(prompt), prompt.source) for prompt in held_out)
    return [(first[key], source) for key, source in keys if key in first]


def key_of(prompt: Prompt) -> tuple[str, ...]:
    contents = [message["content"] for message in prompt.messages] or [prompt.text]
    return tuple(" ".join(content.split()).casefold() for content in contents)
