"""Converts text to tokens and back, in the format of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dapo_lightning.data import DataError
from dapo_lightning.policy.chat import Chat
from dapo_lightning.types import Prompt


@dataclass(frozen=True)
class Codec:
    """Translates between text and tokens; it needs no weights.

    Args:
        end_tokens: all tokens that end a completion.
        max_positions: the maximum number of tokens of prompt and completion together; None if the model has no limit.
        chat: turns prompts into chats; None: prompts are plain text.
        num_embeddings: number of tokens for which the model has an embedding; None: as many as the tokenizer.
        keep_special_tokens: whether special tokens other than the end token stay in the text of a completion.
    """

    tokenizer: PreTrainedTokenizerBase
    end_tokens: tuple[int, ...]
    max_positions: int | None
    chat: Chat | None = None
    num_embeddings: int | None = None
    keep_special_tokens: bool = False

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Returns the token ids, including those that the tokenizer or the chat template adds around the text, but
        without an end token after it.

        Raises:
            DataError: naming the row, if it is a chat but the policy takes plain text, if it or its answer is not valid
                Unicode, if the chat template refuses it, if the model has no embedding for one of its tokens, or if it
                has no tokens.
        """
        _check_unicode(prompt)
        if self.chat:
            tokens = self.chat.encode(prompt, self.tokenizer)
        elif prompt.messages:
            raise DataError(
                f"{prompt.source}: the row is a chat, but this policy takes plain text: set policy.chat=true (the "
                "tokenizer needs a chat template), or use rows whose prompt is text."
            )
        else:
            tokens = self.tokenizer(prompt.text)["input_ids"]
            tokens = tokens[: len(tokens) - self.num_appended]
        if not tokens:
            raise DataError(f"{prompt.source}: the prompt has no tokens.")
        if self.num_embeddings is not None and (largest := max(tokens)) >= self.num_embeddings:
            raise DataError(
                f"{prompt.source}: the prompt holds {self.tokenizer.convert_ids_to_tokens(largest)!r}, token "
                f"{largest}, but the embedding of the model has only {self.num_embeddings} rows. Resize it "
                "(`resize_token_embeddings`) and train the new rows first, or remove such tokens from the prompts."
            )
        return tuple(tokens)

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Returns the token ids of the text without special tokens around it."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_reply(self, message: str, last: int) -> tuple[int, ...]:
        """Returns the token ids between two turns of the policy, in which it reads a message.

        With a chat template, they include what closes the turn before and opens the next one. Without one, they are
        those of the text alone.

        Args:
            last: the last token of the turn before. If it is the token that closes turns, it is not repeated.

        Raises:
            DataError: if the chat template refuses a second message of the user.
        """
        if self.chat is None:
            return self.encode_text(message)
        tokens = tuple(self.chat.encode_reply(message, self.tokenizer))
        closing = tokens[:3]  # a template may write white space first
        return tokens[closing.index(last) + 1 :] if last in closing else tokens

    def decode(self, tokens: Tensor) -> str:
        """Converts token ids to text. Spaces are not changed. The end token is removed, and special tokens are
        removed unless `keep_special_tokens` is set."""
        written = tokens.tolist()
        if written and written[-1] in self.end_tokens:
            del written[-1]
        return self.tokenizer.decode(
            written, skip_special_tokens=not self.keep_special_tokens, clean_up_tokenization_spaces=False
        )

    @cached_property
    def num_appended(self) -> int:
        """The number of tokens that the tokenizer appends to a plain text, if they include an end token, as with
        `add_eos_token`; otherwise 0."""
        alone, tokens = list(self.encode_text("a")), list(self.tokenizer("a")["input_ids"])
        counts = (n for n in range(len(tokens)) if tokens[: len(tokens) - n][-len(alone) :] == alone)
        count = next(counts, 0)
        return count if set(tokens[len(tokens) - count :]) & {*self.end_tokens} else 0


def all_end_tokens(
    tokenizer: PreTrainedTokenizerBase, configured: Sequence[int], more: Sequence[str] = ()
) -> tuple[int, ...]:
    """Returns all tokens that end a completion: the tokenizer's end token, those of the generation config
    (`configured`), and those in `more`, which are given as text.

    Raises:
        ValueError: if there is no such token, or if an item of `more` is not a single token.
    """
    vocabulary = tokenizer.get_vocab() if more else {}
    if unknown := [name for name in more if name not in vocabulary]:
        raise ValueError(f"policy.end_tokens={list(more)}: {unknown[0]!r} is not a token of its tokenizer.")
    ends = {token for token in [tokenizer.eos_token_id, *configured] if token is not None}
    ends |= {vocabulary[name] for name in more}
    if not ends:
        raise ValueError(
            "the policy has no end-of-sequence token, so every completion would be truncated: set "
            "policy.end_tokens, eos_token in its tokenizer, or eos_token_id in its generation config."
        )
    return tuple(sorted(ends))


def _check_unicode(prompt: Prompt) -> None:
    for text in (prompt.text, prompt.answer, *(message["content"] for message in prompt.messages)):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{prompt.source}: the prompt or its answer holds {text[error.start]!a}, which is half of a pair of "
                "surrogates and stands for no character, as when an emoji was cut in two. Fix the row or remove it."
            ) from None
