import pytest

from dapo_lightning.reward import RewardError
from dapo_lightning.reward.exact import Exact
from dapo_lightning.reward.function import Function
from dapo_lightning.types import Prompt

PROMPT = Prompt("7+5=", "12", "test:0", {"level": 2})


@pytest.mark.parametrize(
    ("text", "correct", "answer"),
    [
        ("7+5=12#12", True, "12"),
        ("#11", False, "11"),
        ("#11 no #12 ", True, "12"),
        ("12", False, None),
        ("", False, None),
        ("#", False, ""),
        ("#12\0", False, "12\0"),
        ("#１２", False, "１２"),
    ],
)
def test_exact(text, correct, answer):
    (grade,) = Exact("#")([PROMPT], [text])
    assert (grade.correct, grade.answer, grade.score) == (correct, answer, 1.0 if correct else -1.0)


def uses_columns(completions, prompts, answers, level):
    assert prompts == ["7+5="] * 2 and level == [2, 2]
    return [float(answer in completion) for completion, answer in zip(completions, answers, strict=True)]


def raises(**_):
    raise KeyError("no such thing")


def too_few(**_):
    return [1.0]


def not_numbers(**_):
    return ["good", "bad"]


def test_function_gets_all_columns_by_name():
    grades = Function("test_reward.uses_columns")([PROMPT] * 2, ["12", "13"])
    assert [(grade.score, grade.correct) for grade in grades] == [(1.0, True), (0.0, False)]


@pytest.mark.parametrize(
    ("name", "says"),
    [("raises", "raised KeyError"), ("too_few", "1 scores for 2"), ("not_numbers", "must be a number")],
)
def test_a_failing_function_is_named_with_its_prompt(name, says):
    with pytest.raises(RewardError, match=rf"test_reward\.{name} on test:0 \('7\+5='\).*{says}"):
        Function(f"test_reward.{name}")([PROMPT] * 2, ["12", "13"])


@pytest.mark.parametrize("path", ["nowhere.f", "test_reward.nothing", "f", "test_reward.PROMPT"])
def test_a_path_that_cannot_be_called_is_refused(path):
    with pytest.raises(ValueError, match=r"reward\.path"):
        Function(path)
