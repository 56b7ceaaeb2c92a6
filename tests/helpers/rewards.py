"""Reward functions that tests name by their dotted path; nothing heavy is imported, so that grading starts at once."""

import asyncio
import mmap
import os
import subprocess
import time
from pathlib import Path


def even_length(completions: list[str], **columns: object) -> list[float]:
    """A reward that a random policy earns about half of the time."""
    return [1.0 if len(completion) % 2 == 0 else -1.0 for completion in completions]


def slow_even_length(completions: list[str], **columns: object) -> list[float]:
    """The same, as if a server had to be asked, which is slower while the file exists that HOLD names."""
    time.sleep(0.2 if "HOLD" in os.environ and Path(os.environ["HOLD"]).exists() else 0.05)
    return even_length(completions)


def once_too_slow_even_length(completions: list[str], **columns: object) -> list[float]:
    """Eight seconds for each of five calls, a minute and a half for the sixth, then none; counted in a file, for the
    process may be another one."""
    with Path(os.environ["CALLS"]).open("a+") as calls:
        calls.write("x")
        number = calls.tell()
    time.sleep(8 if number <= 5 else 90 if number == 6 else 0)
    return even_length(completions)


def fails_beside_others(completions: list[str], **columns: object) -> list[float]:
    """Once the second task of a SLURM job grades."""
    if os.environ["SLURM_PROCID"] == "1":
        return "the second task is out of luck"
    return even_length(completions)


def uses_columns(completions, prompts, answers, level):
    assert prompts == ["7+5="] * len(completions) and level == [2] * len(completions)
    return [float(answer in completion) for completion, answer in zip(completions, answers, strict=True)]


async def is_async(completions, **_):
    await asyncio.sleep(0)
    return [float(len(completion)) for completion in completions]


def raises(**_):
    raise KeyError("no such thing")


def too_few(**_):
    return [1.0]


def number_of(completions, **_):
    return [float(int(completion)) for completion in completions]


def none_for_words(completions, **_):
    return [float(completion) if completion.isdigit() else None for completion in completions]


def scores_by_index(completions, **_):
    return {i: 0.25 for i, _ in enumerate(completions)}


def set_of_scores(completions, **_):
    return {float(i) for i, _ in enumerate(completions)}


def one_text(completions, **_):
    return "1" * len(completions)


def one_number(**_):
    return 1.0


def waits(completions, **_):
    time.sleep(60)


def hides_and_hangs(completions, **_):
    """Starts a process in a new session, so that killing the process group of the grader does not end it."""
    subprocess.Popen(["setsid", "sleep", "77"], start_new_session=True)
    time.sleep(60)


def loads_a_model(completions, **_):
    model = bytes(100_000_000)
    return [float(model[0]) for _ in completions]


def maps_a_model(completions, **_):
    """As libraries do, and as they report it."""
    model = mmap.mmap(-1, 100_000_000)
    return [float(model[0]) for _ in completions]


def too_large(completions, **_):
    return [1e300 for _ in completions]


def not_numbers(**_):
    return ["good", "bad"]


def hangs_on_b(completions, **_):
    while "b" in completions:
        pass
    return [1.0 for _ in completions]


def starts_low(completions, **_):
    return [1.0 if completion[:1] in tuple("01234") else -1.0 for completion in completions]


def coin(completions, **_):
    return [float(i % 2) for i in range(len(completions))]


def never(completions, **_):
    return [-1.0] * len(completions)


def always_infinite(completions, **_):
    return [float("inf")] * len(completions)


calls = 0  # in this process: with one worker, all of a run's


def nan_in_the_third_of_training(completions, **_):
    global calls
    calls += 1
    first_evaluation = 8
    return [float("nan") if calls == first_evaluation + 3 else float(len(c) % 2) for c in completions]


def fails_after_a_while(completions, **_):
    global calls
    calls += 1
    if calls > int(os.environ.get("FAILS_AFTER", 10**9)):
        raise RuntimeError("judge is out")
    return [float(len(c) % 2) for c in completions]


def raises_on_seven(completions, **_):
    if any(completion.startswith("7") for completion in completions):
        raise ValueError("a seven")
    return coin(completions)


def hangs_sometimes(completions, **_):
    while any(completion.startswith("7") for completion in completions):
        pass
    return coin(completions)


NOT_A_FUNCTION = 3


def ends_on_solution(prompts, completions, solution, **kwargs):
    """Written for TRL, which gives the completions of chats as messages."""
    assert len(prompts) == len(completions) and "answers" in kwargs
    texts = [completion if isinstance(completion, str) else completion[0]["content"] for completion in completions]
    return [1.0 if text.endswith(right) else 0.0 for text, right in zip(texts, solution, strict=True)]


def last_message_is_from_the_assistant(completions, **kwargs):
    return [float(completion[-1]["role"] == "assistant") for completion in completions]


def takes_two(completions, answers):
    return [float(completion == answer) for completion, answer in zip(completions, answers, strict=True)]


def says_it_reads_text(completions: list[str], level: list[int] | None = None) -> list[float]:
    return [float(completion.isdigit()) for completion in completions]


def expects_text(completions, **kwargs):
    return [float(len(completion.strip())) for completion in completions]


class Judge:
    def __init__(self, scale: float = 2.0):
        self.scale = scale

    def __call__(self, completions, **kwargs):
        return [self.scale * len(completion) for completion in completions]

    class Exact:
        @staticmethod
        def by_length(completions, **kwargs):
            return [float(len(completion)) for completion in completions]


class AsyncJudge(Judge):
    async def __call__(self, completions, **kwargs):
        await asyncio.sleep(0)
        return super().__call__(completions)


class NeedsScale:
    def __init__(self, scale):
        self.scale = scale


class NeedsDevice(NeedsScale):
    def __init__(self):
        raise RuntimeError("no GPU")


def quotes_bytes(completions, **_):
    raise ValueError(b"\xff\xc3\xa9".decode(errors="surrogateescape"))


triple = Judge(3.0)
