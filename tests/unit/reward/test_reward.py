import pytest

from dapo_lightning.data.reasoning_gym import ReasoningGym as ReasoningGymData
from dapo_lightning.reward.exact import Exact
from dapo_lightning.reward.function import Function
from dapo_lightning.reward.math import Math
from dapo_lightning.reward.reasoning_gym import ReasoningGym
from dapo_lightning.reward.weighted import Weighted
from dapo_lightning.types import Grade, Prompt

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


def test_references_that_no_answer_equals_are_refused_or_left_out(caplog):
    prompts = [Prompt("a", "#12", "rows:1"), Prompt("b", "12", "rows:2")]
    with pytest.raises(ValueError, match=r"1 of 2 reference answers, which contain the marker '#'.*rows:1 \('#12'\)"):
        Exact("#").usable(prompts)
    skipping = Weighted({"exact": 1.0}, "exact", exact=Exact("#", unreadable="skip"))
    assert skipping.usable(prompts) == prompts[1:] and "rows:1" in caplog.text


def test_function_gets_all_columns_by_name():
    grades = function("uses_columns")([PROMPT] * 2, ["12", "13"])
    assert [(grade.score, grade.correct) for grade in grades] == [(1.0, True), (0.0, False)]


def function(name, seconds=5.0):
    return Function(num_workers=1, seconds=seconds, megabytes=1000, path=f"rewards.{name}")


@pytest.mark.parametrize("name", ["nowhere.f", "nothing", "NOT_A_FUNCTION"])
def test_a_path_that_cannot_be_called_is_refused(name):
    with pytest.raises(ValueError, match=r"reward\.path=rewards"):
        function(name).start()


def test_an_async_function_is_awaited():
    assert [grade.score for grade in function("is_async")([PROMPT] * 2, ["a", "abc"])] == [1.0, 3.0]


def test_the_completion_that_hangs_is_found_and_the_others_keep_their_scores():
    grades = function("hangs_on_b", seconds=0.5)([PROMPT] * 4, ["a", "b", "c", "d"])
    assert [(grade.score, grade.failure) for grade in grades] == [
        (1.0, None),
        (0.0, "timeout"),
        (1.0, None),
        (1.0, None),
    ]


def test_parts_are_weighted_and_one_of_them_says_what_is_correct():
    reward = Weighted({"exact": 1.0, "length": 0.5}, "exact", exact=Exact("#"), length=function("is_async"))
    (grade,) = reward([PROMPT], ["#12"])
    assert (grade.score, grade.correct, grade.answer) == (2.5, True, "12")
    assert grade.parts == {"exact": 1.0, "length": 3.0}
    with pytest.raises(ValueError, match=r"reward\.weights"):
        Weighted({"other": 1.0}, "exact", exact=Exact("#"))
    with pytest.raises(ValueError, match=r"reward\.correctness"):
        Weighted({"exact": 1.0}, "other", exact=Exact("#"))


def test_the_part_that_could_not_grade_is_named():
    reward = Weighted({"exact": 1.0, "number": 0.5}, "exact", exact=Exact("#"), number=function("number_of"))
    right, failed = reward([PROMPT] * 2, ["12", "#12"])
    assert (right.failure, right.detail, right.score) == (None, "", -1.0 + 0.5 * 12)
    assert (failed.failure, failed.correct) == ("error", True)
    assert failed.detail.startswith("number: ValueError: invalid literal")


def test_reasoning_gym_scores_with_the_tasks_own_scorer():
    data = ReasoningGymData("chain_sum", num_train=2, num_validation=2, seed=0)
    prompts = data.train_prompts()
    reward = ReasoningGym(1, 5.0, 500, task="chain_sum", pattern="(?s)<answer>(.*?)</answer>")
    texts = [f"so <answer>1</answer> no <answer>{prompts[0].answer}</answer>", "<answer>x</answer>"]
    right, wrong = reward(prompts, texts)
    assert (right.score, right.correct, right.answer) == (1.0, True, prompts[0].answer)
    assert (wrong.score, wrong.correct, wrong.answer) == (0.0, False, "x")
    assert reward(prompts[:1], ["no tag"])[0] == Grade(0.0, correct=False)
    last_number = ReasoningGym(1, 5.0, 500, task="chain_sum", pattern=r"(-?\d+)")
    assert last_number(prompts[:1], [f"12 and then {prompts[0].answer}."])[0].correct
    whole = ReasoningGym(1, 5.0, 500, task="chain_sum", pattern=None)
    assert whole(prompts[:1], [f" {prompts[0].answer}\n"])[0].correct


def test_math_is_graded_in_another_process():
    prompts = [Prompt("?", "1/2", "test:0")] * 3
    right, wrong, none = Math(1, 5.0, 500)(prompts, [r"so \boxed{\frac{2}{4}}", "Answer: 3", ""])
    assert (right.correct, right.score) == (True, 1.0)
    assert (wrong.correct, wrong.score, wrong.answer) == (False, -1.0, "3")
    assert (none.correct, none.answer) == (False, None)
