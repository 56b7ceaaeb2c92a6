"""Notices for the log about easily overlooked properties of a tokenizer and its chat template."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from dapo_lightning.policy.codec import Codec


def notices(codec: Codec) -> Iterator[str]:
    """Yields the surprising properties of the tokens of prompts and completions, with remedies."""
    tokenizer, chat = codec.tokenizer, codec.chat
    names = {token: name for name, token in tokenizer.get_vocab().items()}
    if codec.num_embeddings is not None and max(names) >= codec.num_embeddings:
        yield (
            f"its tokenizer has {max(names) + 1} tokens, but the embedding of the model has {codec.num_embeddings} "
            f"rows: prompts that contain {names[max(names)]!r} or another token without a row are refused"
        )
    if chat is None:
        if codec.num_appended:
            yield "its tokenizer appends an end token to every text; it is removed from the prompts"
        return
    asked_for = [name for name in tokenizer.all_special_tokens if name in (chat.system_prompt or "")]
    if asked_for and not codec.keep_special_tokens:
        yield (
            f"policy.system_prompt contains {asked_for[0]!r}, a special token, which is removed from the completions "
            "that the reward reads. To keep it, set policy.keep_special_tokens=true"
        )
    closing = chat.closing_token(tokenizer)
    if closing is not None and closing not in codec.end_tokens:
        yield (
            f"its chat template ends a turn with {names[closing]!r}, which does not end a completion, so a model that "
            f"has learnt this template would continue up to max_new_tokens. Set policy.end_tokens=['{names[closing]}']"
        )
    if chat.shows_date(tokenizer):
        yield (
            "its chat template puts today's date into the prompts, so the same run has different prompts on other "
            f"days. Fix the date with policy.date={datetime.date.today()}"
        )
