"""Environments as users write them."""

import time


def higher_or_lower(messages, answer):
    said = messages[-1]["content"]
    assert messages[0] == {"role": "user", "content": "3+4="} and len(messages) % 2 == 0
    return None if said == answer else "higher" if int(said) < int(answer) else "lower"


class Counting:
    async def __call__(self, correct, limit=None, **columns):
        return f"{correct.count(False)} wrong, limit {limit}"


def fragile(messages):
    said = messages[-1]["content"]
    if said == "hang":
        time.sleep(60)
    if said == "7":
        return 7
    if said == "raise":
        raise ValueError("no")
    if said == "half":
        return "\ud83d"
    return "fine"


def needs_more(messages, hint):
    return hint
