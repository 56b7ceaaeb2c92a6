"""Prompts as chats, in the format of a tokenizer's chat template."""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from dapo_lightning.data import DataError
from dapo_lightning.types import Prompt
from dapo_lightning.utils.limits import limits

RENDER_SECONDS = 10  # a template is a program by the author of the model; it usually takes less than a millisecond
RENDER_MEGABYTES = 500
MAX_CHARACTERS = 10_000_000  # of a short chat; tokenizing so many takes seconds
FOR_TEMPLATES = ("tools", "documents", "chat_template")
"""The arguments of `apply_chat_template` that may be among `template_kwargs`; the codec sets the others itself."""


@dataclass(frozen=True)
class Chat:
    """Turns prompts into chats for the tokenizer's chat template.

    Args:
        system_prompt: precedes every prompt; None: the template decides, which may have its own system prompt.
        template_kwargs: arguments of the template, such as `{enable_thinking: false}`.
        date: the date that templates see as today's date (`strftime_now`); None: the real one.
    """

    system_prompt: str | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    date: datetime.date | None = None

    def messages(self, prompt: Prompt) -> list[Mapping[str, str]]:
        """Returns the messages of a prompt; plain text becomes a message of the user.

        Raises:
            DataError: if both the row and the configuration contain a system prompt.
        """
        chat = list(prompt.messages) or [{"role": "user", "content": prompt.text}]
        if self.system_prompt is None:
            return chat
        if chat[0]["role"] == "system":
            raise DataError(
                f"{prompt.source}: the row has its own system message, and policy.system_prompt is set, too: "
                "remove one of them."
            )
        return [{"role": "system", "content": self.system_prompt}, *chat]

    def encode(self, prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> Sequence[int]:
        """Returns the token ids of the chat up to the beginning of the assistant's reply.

        Raises:
            DataError: naming the row, if the chat template raises an exception, does not terminate, or needs too much
                memory.
        """
        messages = self.messages(prompt)
        try:
            text = self._rendered(tokenizer, messages, add_generation_prompt=True)
            return tokenizer(text, add_special_tokens=False)["input_ids"]
        except Exception as error:  # a template is a program: None + "text" is a TypeError, for example
            says_enough = isinstance(error, TemplateError | TimeoutError | MemoryError)
            reason = f"{error}" if says_enough else f"{type(error).__name__}: {error}"
            roles = ", ".join(message["role"] for message in messages)
            raise DataError(
                f"{prompt.source}: the policy's chat template refuses the messages of this row (roles: {roles}): "
                f"{reason}. Fix the row or remove it, or change policy.system_prompt or policy.template_kwargs."
            ) from None

    def encode_reply(self, message: str, tokenizer: PreTrainedTokenizerBase) -> Sequence[int]:
        """Returns the token ids of everything between a turn of the assistant and its next one: what closes the turn,
        a message of the user, and the beginning of the assistant's reply.

        They are those of an example chat, so that they depend on the message only, and nothing that the policy wrote is
        rendered again. (A template that would remove parts of earlier turns, such as thoughts, does not see them.)

        Raises:
            DataError: if the chat template raises an exception.
        """
        said = "So far, I believe that it is 42."
        example = [
            *self.messages(Prompt("What is it?", "", "")),
            {"role": "assistant", "content": said},
            {"role": "user", "content": message},
        ]
        try:
            text = self._rendered(tokenizer, example, add_generation_prompt=True)
        except Exception as error:  # as above
            raise DataError(
                "environment: the policy's chat template refuses a second message of the user "
                f"({type(error).__name__}: {error}). Use environment=single_turn, or another chat template."
            ) from None
        return tokenizer(text.partition(said)[2], add_special_tokens=False)["input_ids"]

    def problem(self, tokenizer: PreTrainedTokenizerBase) -> str | None:
        """Returns why no prompt can be rendered with this chat template, or None. If it raises exceptions, `encode`
        reports them with the row."""
        try:
            one, other = (
                self._rendered(tokenizer, self.messages(Prompt(text, "", "")), add_generation_prompt=True)
                for text in ("What is it?", "Who was that?")
            )
        except (TimeoutError, MemoryError) as error:
            return f"cannot be used: {error}. Use another one."
        except Exception:
            return None
        if len(one) > MAX_CHARACTERS:
            return f"writes {len(one):,} characters for a chat of one short message. Use another one."
        if one == other:
            return (
                "does not contain the text of the messages, so all prompts would be the same. (Templates for images "
                "may read lists of parts only.) Set policy.chat=false, or use another template."
            )
        return None

    def closing_token(self, tokenizer: PreTrainedTokenizerBase) -> int | None:
        """Returns the token that ends a turn of the assistant in the chat template, such as `<|im_end|>` for Qwen; None
        if there is no such token, or if the template raises an exception for the example chat."""
        said = "It is 42."
        chat = [*self.messages(Prompt("What is it?", "", "")), {"role": "assistant", "content": said}]
        try:
            text = self._rendered(tokenizer, chat)
        except Exception:  # as above; if the template also refuses rows, `encode` reports them
            return None
        added = {
            token for name, token in tokenizer.get_added_vocab().items() if name.strip()
        }  # some added tokens are white space
        behind = tokenizer(text.rpartition(said)[2], add_special_tokens=False)["input_ids"]
        return next((token for token in behind if token in added), None)

    def shows_date(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether the chat template puts today's date into prompts."""
        chat = self.messages(Prompt("What is it?", "", ""))
        days = (datetime.date(2001, 2, 3), datetime.date(2032, 11, 30))
        try:
            one, other = (replace(self, date=day)._rendered(tokenizer, chat) for day in days)
        except Exception:
            return False
        return self.date is None and one != other

    def _rendered(
        self,
        tokenizer: PreTrainedTokenizerBase,
        messages: Sequence[Mapping[str, str]],
        add_generation_prompt: bool = False,
    ) -> str:
        with limits(RENDER_SECONDS, RENDER_MEGABYTES), _on(self.date) if self.date else nullcontext():
            return tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=add_generation_prompt, tokenize=False, **self.template_kwargs
            )


@contextmanager
def _on(date: datetime.date) -> Iterator[None]:
    """Makes this date today's date for chat templates within the context. There is no public function for this. If
    transformers changes the private name, runs with `policy.date` fail at the first prompt."""

    class Day(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Day:
            return cls(date.year, date.month, date.day, tzinfo=tz)

    before = chat_template_utils.datetime
    chat_template_utils.datetime = Day
    try:
        yield
    finally:
        chat_template_utils.datetime = before


def reserved_arguments(tokenizer_class: type[PreTrainedTokenizerBase] = PreTrainedTokenizerBase) -> set[str]:
    """Returns the names that `template_kwargs` must not contain, because they are not arguments of the template."""
    return set(inspect.signature(tokenizer_class.apply_chat_template).parameters) - {*FOR_TEMPLATES, "kwargs"}
