"""From the columns of a row to a prompt; prompts in more than one split."""

from __future__ import annotations

import pytest

from dapo_lightning.data import DataError
from dapo_lightning.data.columns import Columns
from dapo_lightning.draws.overlap import repeated
from dapo_lightning.types import Prompt


def user(content):
    return {"role": "user", "content": content}


def test_text_and_other_columns():
    prompt = Columns("question", "label").read({"question": "1+1", "label": 2, "level": "easy"}, "x:1")
    assert prompt == Prompt(text="1+1", answer="2", source="x:1", columns={"level": "easy"})


def test_a_record_that_holds_the_answer_stays_for_rewards():
    row = {"prompt": "1+1", "reward_model": {"ground_truth": "2", "style": "rule"}}
    prompt = Columns(answer="reward_model.ground_truth").read(row, "x:1")
    assert prompt.answer == "2" and prompt.columns == {"reward_model": row["reward_model"]}


def test_a_name_with_a_dot_is_found_before_a_path():
    row = {"prompt": "1+1", "a.b": "2", "a": {"b": "3"}}
    prompt = Columns(answer="a.b").read(row, "x:1")
    assert prompt.answer == "2" and prompt.columns == {"a": {"b": "3"}}


def test_a_chat_keeps_its_messages():
    chat = [{"role": "system", "content": "Be brief."}, user("1+1?") | {"name": None}]
    prompt = Columns().read({"prompt": chat, "answer": "2"}, "x:1")
    assert prompt.text == "1+1?" and prompt.columns == {}
    assert prompt.messages == ({"role": "system", "content": "Be brief."}, user("1+1?"))


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (3.0, "3"), (-0.0, "0"), (0.5, "0.5"), ("3.0", "3.0"), ("007", "007"), (" x", " x")],
)  # fmt: skip
def test_numbers_become_text_and_text_stays(value, text):
    assert Columns().read({"prompt": "q", "answer": value}, "x:1").answer == text


def test_the_answer_after_the_last_marker():
    row = {"prompt": "q", "answer": "#### 3 is wrong\n#### 1,234 "}
    prompt = Columns(answer_after="####").read(row, "x:1")
    assert prompt.answer == "1,234" and prompt.columns == {"answer": row["answer"]}


GOOD = {"prompt": "q", "answer": "1", "info": {"id": 7}}
UNFIT = {
    "rounded": (Columns(), {"answer": 2.0**53}, r"'answer' contains 9007199254740992\.0, a float so large.*as text"),
    "missing": (Columns(answer="label"), {}, r"'label' is missing.*\['answer', 'info\.id', 'prompt'\].*answer_column"),
    "missing field": (Columns(answer="info.label"), {}, r"'info\.label' is missing.*data\.answer_column"),
    "field of text": (Columns(answer="prompt.label"), {}, r"'prompt\.label' is missing"),
    "null": (Columns(), {"answer": None}, "'answer' is missing or null"),
    "empty": (Columns(), {"prompt": " "}, r"'prompt' is empty.*data\.prompt_column"),
    "not a number": (Columns(), {"answer": float("nan")}, "'answer' is empty or not a number"),
    "truth value": (Columns(), {"answer": True}, "'answer' contains a bool"),
    "record": (Columns(answer="info"), {}, "'info' contains a dict"),
    "list": (Columns(), {"answer": ["1"]}, "'answer' contains a list"),
    "no marker": (Columns(answer_after="####"), {}, r"'answer' does not contain '####' \(data\.answer_after\)"),
    "nothing after": (Columns(answer_after="####"), {"answer": "1 ####\n"}, "'answer' contains nothing after '####'"),
}
UNFIT_CHATS = {
    "no messages": (["q"], "is a list, but its items are not chat messages"),
    "no content": ([{"role": "user"}], "is a list, but its items are not chat messages"),
    "bad role": ([{"role": "human", "content": "q"}], "contains a chat with the role 'human'.*user"),
    "parts": ([user([{"type": "text"}])], "contains a chat with a message of the user whose content is not text"),
    "answered": (
        [user("q"), {"role": "assistant", "content": "a"}],
        "contains a chat that does not end with .* the user",
    ),
    "empty chat": ([], "contains a chat that does not end with .* the user"),
    "nothing said": ([user(" ")], "contains a chat that does not end with .* the user"),
}


@pytest.mark.parametrize(("columns", "change", "says"), UNFIT.values(), ids=UNFIT)
def test_an_unfit_row_is_named_with_the_remedy(columns, change, says):
    with pytest.raises(DataError, match=rf"^x:1: column {says}"):
        columns.read(GOOD | change, "x:1")


@pytest.mark.parametrize(("chat", "says"), UNFIT_CHATS.values(), ids=UNFIT_CHATS)
def test_an_unfit_chat_is_named_with_the_remedy(chat, says):
    with pytest.raises(DataError, match=rf"^x:1: column 'prompt' {says}.*Fix the row.*data\.prompt_column"):
        Columns().read({"prompt": chat, "answer": "1"}, "x:1")


def prompts(name, *texts):
    return [Prompt(text, "1", f"{name}:{i}") for i, text in enumerate(texts, 1)]


def test_repeated_prompts_are_found_whatever_their_spacing_and_case():
    train = prompts("train", "What is 1 + 1?", "what is\n1 + 1? ", "other")
    held_out = prompts("test", "new", "WHAT is 1 + 1?", "What is 11?")
    assert repeated(train, held_out) == [("train:1", "test:2")]
    assert repeated([], held_out) == repeated(train, []) == []


def test_chats_are_compared_by_all_they_say():
    def chat(source, *contents):
        return Prompt(contents[-1], "1", source, messages=tuple(user(content) for content in contents))

    train = [chat("a", "Hello", "Why?"), chat("b", "Why?")]
    assert repeated(train, [chat("x", "why? "), chat("y", "hello", "why?"), chat("z", "hello why?")]) == [
        ("b", "x"),
        ("a", "y"),
    ]
    assert repeated(train, prompts("text", "Why?")) == [("b", "text:1")]
