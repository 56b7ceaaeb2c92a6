"""Text to tokens and back, in the format of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dapo_lightning.data import DataError
from dapo_lightning.types import Prompt


@dataclass(frozen=True)
class Chat:
    """Turns prompts into chats for the tokenizer's chat template.

    Args:
        system_prompt: precedes every prompt; None leaves it to the template, which may have its own.
        template_kwargs: arguments of the template, such as `{enable_thinking: false}`.
    """

    system_prompt: str | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def messages(self, prompt: Prompt) -> list[Mapping[str, str]]:
        """The chat of a prompt; plain text becomes a message of the user.

        Raises:
            DataError: if both the row and the configuration hold a system prompt.
        """
        chat = list(prompt.messages) or [{"role": "user", "content": prompt.text}]
        if self.system_prompt is None:
            return chat
        if chat[0]["role"] == "system":
            raise DataError(
                f"{prompt.source}: the row has a system message of its own, and policy.system_prompt is set: "
                "remove one of them."
            )
        return [{"role": "system", "content": self.system_prompt}, *chat]


@dataclass(frozen=True)
class Codec:
    """Translates between text and tokens; it needs no weights.

    Args:
        end_tokens: every token that ends a completion.
        max_positions: the limit on tokens of prompt and completion together; None if the model states none.
        chat: turns prompts into chats; None feeds their plain text.
    """

    tokenizer: PreTrainedTokenizerBase
    end_tokens: tuple[int, ...]
    max_positions: int | None
    chat: Chat | None = None

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids, including those that the tokenizer or the chat template puts around the text.

        Raises:
            DataError: naming the row, if it holds a chat but the policy takes plain text, if the chat template refuses
                it, or if it has no tokens.
        """
        if self.chat is None:
            if prompt.messages:
                raise DataError(
                    f"{prompt.source}: the row is a chat, but this policy takes plain text: set policy.chat=true (the "
                    "tokenizer needs a chat template), or use rows whose prompt is text."
                )
            tokens = self.tokenizer(prompt.text)["input_ids"]
        else:
            tokens = self._templated(prompt, self.chat)
        if not tokens:
            raise DataError(f"{prompt.source}: the prompt has no tokens.")
        return tuple(tokens)

    def _templated(self, prompt: Prompt, chat: Chat) -> Sequence[int]:
        messages = chat.messages(prompt)
        try:
            return self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=True, **chat.template_kwargs
            )["input_ids"]
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise DataError(
                f"{prompt.source}: the policy's chat template refuses the messages of this row (roles: {roles}): "
                f"{error}. Fix the row or remove it, or change policy.system_prompt or policy.template_kwargs."
            ) from None

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Token ids of the text alone, without special tokens."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, tokens: Tensor) -> str:
        """Token ids -> text, without special tokens and with spaces as they are."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def all_end_tokens(tokenizer: PreTrainedTokenizerBase, configured: int | Sequence[int] | None) -> tuple[int, ...]:
    """Every token that ends a completion: the tokenizer's end token and those of the generation config.

    Raises:
        ValueError: if there is none.
    """
    more = [configured] if configured is None or isinstance(configured, int) else list(configured)
    ends = {token for token in [tokenizer.eos_token_id, *more] if token is not None}
    if not ends:
        raise ValueError(
            "the policy has no end-of-sequence token, so every completion would be truncated: "
            "set eos_token in its tokenizer or eos_token_id in its generation config."
        )
    return tuple(sorted(ends))
