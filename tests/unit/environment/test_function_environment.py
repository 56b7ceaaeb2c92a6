"""The user's own environment, in child processes: it replies, it fails, it hangs."""

import pytest
import torch
from conftest import tiny

from dapo_lightning.environment import Dialogue, ReplyError
from dapo_lightning.environment.conversations import Conversations
from dapo_lightning.environment.function import Function
from dapo_lightning.reward import Reward
from dapo_lightning.types import Completion, Grade, Prompt, Trajectory


def environment(path, seconds=20.0, **changes):
    settings = {"num_turns": 4, "max_turn_tokens": None, "max_message_tokens": 20, "grades_turns": True}
    return Function(path, **(settings | changes), num_workers=1, seconds=seconds, megabytes=1024)


def dialogue(*turns, replies=(), **columns):
    grades = tuple(Grade(float(turn == "7"), turn == "7") for turn in turns)
    return Dialogue(Prompt("3+4=", "7", "row 1", columns), turns, replies, grades)


def test_the_function_gets_the_conversation_so_far_and_says_what_comes_next_or_ends_it():
    sync, async_ = environment("environments.higher_or_lower"), environment("environments.Counting")
    for one in (sync, async_):
        one.start(codec=None)
    asked = [
        dialogue("5", limit=9),
        dialogue("5", "8", replies=("higher",), limit=9),
        dialogue("5", "7", replies=("x",)),
    ]
    assert sync.reply(asked) == ["higher", "lower", None]
    assert async_.reply(asked) == ["1 wrong, limit 9", "2 wrong, limit 9", "1 wrong, limit None"]


def test_a_call_that_fails_or_hangs_ends_its_own_conversation_and_is_reported(caplog):
    one = environment("environments.fragile", seconds=2.0)
    asked = [dialogue("raise"), dialogue("hang"), dialogue("5"), dialogue("7")]
    assert one.reply(asked) == [None, None, "fine", None]
    assert "environment.path=environments.fragile: 3 of 4 calls failed" in caplog.text
    assert "row 1: error ValueError" in caplog.text


def test_a_function_that_cannot_be_called_ends_the_run():
    with pytest.raises(ReplyError, match=r"environments\.needs_more on row 1: the function cannot be called: missing"):
        environment("environments.needs_more").reply([dialogue("5")])


def test_a_function_of_which_no_call_works_ends_the_run():
    one = environment("environments.fragile")
    assert one.reply([dialogue("raise")] * 31) == [None] * 31
    with pytest.raises(ReplyError, match=r"none of the first 32 calls worked\. The last one: error ValueError: no\."):
        one.reply([dialogue("raise")])
    one = environment("environments.fragile")
    assert one.reply([dialogue("raise")] * 31 + [dialogue("5")])[31] == "fine"
    assert one.reply([dialogue("raise")] * 32) == [None] * 32


def test_half_a_surrogate_pair_ends_its_own_conversation(caplog):
    one = environment("environments.fragile")
    assert one.reply([dialogue("half"), dialogue("5")]) == [None, "fine"]
    assert "surrogates not allowed" in caplog.text


def test_the_transcript_can_be_graded_instead_of_the_last_turn():
    codec, reward = tiny(seed=0).codec, Seen()
    one = environment("environments.higher_or_lower", grades_turns=False)
    talk = Conversations(one, codec, reward, [Prompt("3+4=", "7", "row 1")], 1, 40)
    turns = [torch.tensor([*codec.encode_text(text), 1]) for text in ("5", "7")]
    (message,) = talk.reply([0], turns[:1])
    assert message == codec.encode_text("higher") and reward.seen == []
    assert talk.reply([0], turns[1:]) == [None]
    tokens_T = torch.cat([turns[0], torch.tensor(message), turns[1]])
    written_T = torch.tensor([True] * 2 + [False] * 6 + [True] * 2)
    trajectory = Trajectory.of(Completion(tokens_T, torch.zeros(10), torch.zeros(10), False, written_T), 0)
    texts, wait = talk.submit(0, [trajectory])
    assert texts == ("5\nhigher\n7",) and reward.seen == ["5\nhigher\n7"]
    assert wait() == [(Grade(1.0, True),)]


class Seen(Reward):
    def __init__(self):
        self.seen = []

    def submit(self, prompts, completions):
        self.seen += completions
        return lambda: [Grade(1.0, True)] * len(completions)


@pytest.mark.parametrize(
    ("changes", "key"), [({"path": "environments.missing"}, "path"), ({"num_turns": 1}, "num_turns"),
                         ({"path": "environments.higher_or_lower", "seconds": 0.0}, "seconds")],
)  # fmt: skip
def test_what_cannot_work_is_refused_at_the_start(changes, key):
    with pytest.raises(ValueError, match=rf"environment\.{key}="):
        environment(**({"path": "environments.higher_or_lower"} | changes)).start(codec=None)
