"""Held-out prompts that are trained on as well."""

from __future__ import annotations

from collections.abc import Sequence

from dapo_lightning.types import Prompt


def repeated(train: Sequence[Prompt], held_out: Sequence[Prompt]) -> list[tuple[str, str]]:
    """The sources of prompts that are the same but for white space and case; chats are compared by what their
    messages say.

    Returns:
        One pair for each such held-out prompt, in their order: the first train prompt that repeats it, and itself.
    """
    first: dict[tuple[str, ...], str] = {}
    for prompt in train:
        first.setdefault(_key(prompt), prompt.source)
    keys = ((_key(prompt), prompt.source) for prompt in held_out)
    return [(first[key], source) for key, source in keys if key in first]


def _key(prompt: Prompt) -> tuple[str, ...]:
    contents = [message["content"] for message in prompt.messages] or [prompt.text]
    return tuple(" ".join(content.split()).casefold() for content in contents)
