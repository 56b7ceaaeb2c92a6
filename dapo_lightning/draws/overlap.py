"""Held-out prompts that are trained on as well."""

from __future__ import annotations

from collections.abc import Sequence

from dapo_lightning.types import Prompt


def repeated(train: Sequence[Prompt], held_out: Sequence[Prompt]) -> list[tuple[str, str]]:
    """The held-out prompts that equal a train prompt up to white space and case; chats are compared by the contents of
    their messages.

    Returns:
        For each of them, in order, two sources: of the first train prompt that equals it, and its own.
    """
    first: dict[tuple[str, ...], str] = {}
    for prompt in train:
        first.setdefault(_key(prompt), prompt.source)
    keys = ((_key(prompt), prompt.source) for prompt in held_out)
    return [(first[key], source) for key, source in keys if key in first]


def _key(prompt: Prompt) -> tuple[str, ...]:
    contents = [message["content"] for message in prompt.messages] or [prompt.text]
    return tuple(" ".join(content.split()).casefold() for content in contents)
