"""Rewards as people write them: for TRL or for this kit, as functions, classes or instances, in the current folder."""

from __future__ import annotations

import re
import sys
from contextlib import closing

import pytest
from omegaconf import OmegaConf
from runs import ROOT

from dapo_lightning.grading import load
from dapo_lightning.reward import RewardError
from dapo_lightning.reward.function import Function
from dapo_lightning.reward.reasoning_gym import ReasoningGym
from dapo_lightning.types import Grade, Prompt

TEXT = Prompt("7+5=", "12", "test:0", {"level": 2})
CHAT = Prompt("7+5=", "12", "test:1", {"level": 2}, ({"role": "user", "content": "7+5="},))


def grades(path: str, prompt: Prompt, *completions: str, seconds: float = 5.0, megabytes: int = 1000) -> list[Grade]:
    reward = Function(1, seconds, megabytes, path=path, answer_column="solution")
    with closing(reward):
        return reward([prompt] * len(completions), completions)


def scores(path: str, prompt: Prompt, *completions: str) -> list[float]:
    return [grade.score for grade in grades(path, prompt, *completions)]


@pytest.mark.parametrize("prompt", [TEXT, CHAT], ids=["text", "chat"])
def test_a_reward_written_for_trl_works_as_it_is(prompt):
    assert scores("rewards.ends_on_solution", prompt, "so 12", "so 13") == [1.0, 0.0]


def test_completions_of_chats_are_messages_unless_the_function_reads_text():
    assert scores("rewards.last_message_is_from_the_assistant", CHAT, "a", "b") == [1.0, 1.0]
    assert scores("rewards.takes_two", CHAT, "12", "13") == [1.0, 0.0]  # names `answers`, which TRL does not know
    assert scores("rewards.says_it_reads_text", CHAT, "12", "x") == [1.0, 0.0]  # says so in its annotation
    (grade,) = grades("rewards.expects_text", CHAT, "12")
    assert grade.failure == "error"
    assert re.search(r"no attribute 'strip'.*lists of messages.*completion\[0\].*list\[str\]", grade.detail)
    assert scores("rewards.expects_text", TEXT, "12") == [2.0]


@pytest.mark.parametrize(
    ("path", "expected"), [("takes_two", 0.0), ("says_it_reads_text", 1.0), ("Judge", 4.0), ("triple", 6.0),
                           ("AsyncJudge", 4.0), ("triple.__call__", 6.0), ("Judge.Exact.by_length", 2.0)],
)  # fmt: skip
def test_functions_without_kwargs_classes_and_instances(path, expected):
    assert scores(f"rewards.{path}", TEXT, "34") == [expected]


@pytest.mark.parametrize(
    ("module", "path", "says"),
    [
        ("class Judge: pass", "Judge.grade", "AttributeError: type object 'Judge' has no attribute 'grade'"),
        ("", "judges.Judge", "AttributeError: module 'my_module' has no attribute 'judges'"),
        ("def f(:", "f", "SyntaxError: invalid syntax"),
        ("import nothing_here", "Judge.f", "ModuleNotFoundError: No module named 'nothing_here'"),
        ("raise RuntimeError('no GPU')", "f", "RuntimeError: no GPU"),
    ],
)
def test_paths_that_lead_nowhere_and_modules_that_cannot_be_imported(tmp_path, monkeypatch, module, path, says):
    (tmp_path / "my_module.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    with pytest.raises(ValueError, match=rf"^cannot be imported \({re.escape(says)}.*my_module\.my_reward"):
        load(f"my_module.{path}")


def test_a_parameter_that_no_column_provides_is_named_with_the_remedy():
    reward = Function(1, 5.0, 1000, path="rewards.ends_on_solution")
    says = r"missing a required.* 'solution'\. .*: answer, answers, completions, level, prompts; data\.answer_column"
    with pytest.raises(RewardError, match=rf"reward\.path=rewards\.ends_on_solution on test:0 .*{says}"):
        reward([TEXT], ["12"])
    reward.close()
    with pytest.raises(ValueError, match=r"^reward\.path=rewards\.NeedsScale: the class needs arguments.*instance"):
        Function(1, 5.0, 1000, path="rewards.NeedsScale").start()
    with pytest.raises(ValueError, match=r"^reward\.path=rewards\.NeedsDevice: the class raised RuntimeError: no GPU"):
        Function(1, 5.0, 1000, path="rewards.NeedsDevice").start()
    with pytest.raises(ValueError, match=r"^reward\.path=rewards\.Judge\.__call__: is a method of a class"):
        Function(1, 5.0, 1000, path="rewards.Judge.__call__").start()


def test_what_an_exception_says_can_be_written_to_files():
    (grade,) = grades("rewards.quotes_bytes", TEXT, "12")
    assert grade.failure == "error" and grade.detail.encode() == "ValueError: ?é".encode()


def test_a_column_of_that_name_stays_as_it_is_in_the_data():
    """GSM8K: the column holds the whole solution, and the answer is what stands after ####."""
    gsm8k = Prompt("7+5=", "12", "test:0", {"solution": "7 and 5 are #### 12"})
    assert scores("rewards.ends_on_solution", gsm8k, "7 and 5 are #### 12", "12") == [1.0, 0.0]


def test_a_reward_in_the_current_folder_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_own_reward.py").write_text("def f(completions, **_): return [3.0] * len(completions)")
    with pytest.raises(ValueError, match=r"No module named 'my_own_reward'.*or on PYTHONPATH"):
        Function(1, 5.0, 1000, path="my_own_reward.f").start()
    monkeypatch.chdir(tmp_path)
    assert scores("my_own_reward.f", TEXT, "x") == [3.0]


@pytest.mark.parametrize(("data", "column"), [({"answer_column": "solution"}, "solution"), ({}, "answer")])
def test_the_configuration_passes_the_name_of_the_answer_column(data, column):
    config = OmegaConf.create({"data": data, "reward": OmegaConf.load(ROOT / "conf/reward/function.yaml")})
    assert config.reward.answer_column == column


@pytest.mark.parametrize(
    ("package", "reward", "extra"),
    [
        ("reasoning_gym", ReasoningGym(1, 5.0, 500, task="chain_sum", pattern=None), "reasoning-gym"),
    ],
)
def test_a_missing_extra_is_named_with_its_installation(package, reward, extra, tmp_path, monkeypatch):
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('not installed', name={package!r})")
    monkeypatch.syspath_prepend(tmp_path)  # children search where this process does
    says = rf'^reward=\w+ needs the package {package}: pip install "dapo-lightning\[{extra}\]"'
    with pytest.raises(ValueError, match=says):
        reward.start()


def test_columns_with_the_names_of_arguments_are_told_once(caplog):
    clash = Prompt("7+5=", "12", "test:0", {"prompts": "mine", "answers": "mine", "self": "mine", "level": 2})
    assert scores("rewards.uses_columns", clash, "12", "13") == [1.0, 0.0]
    assert scores("rewards.Judge", clash, "12") == [4.0]
    told = [record.message for record in caplog.records if "has the columns" in record.message]
    assert len(told) == 1 and "['answers', 'prompts', 'self']" in told[0]


LOOP_BOUND = ["semaphore", "lock", "queue", "loop_of_the_import"]


@pytest.mark.parametrize("name", LOOP_BOUND)
def test_all_calls_of_an_async_function_share_an_event_loop(name):
    """What a module keeps from one call to the next belongs to the loop of the first."""
    reward = Function(1, 5.0, 1000, path=f"async_rewards.{name}")
    with closing(reward):
        for _ in range(3):
            made = reward([TEXT] * 2, ["a", "abc"])
            assert [(grade.score, grade.failure) for grade in made] == [(1.0, None), (3.0, None)]


def test_a_completion_on_which_the_function_raises_fails_alone():
    right, wrong, also_right = grades("rewards.number_of", TEXT, "3", "three", "4")
    assert (right.score, also_right.score) == (3.0, 4.0)
    assert (wrong.score, wrong.correct, wrong.failure) == (0.0, False, "error")
    assert wrong.detail.startswith("ValueError: invalid literal for int() with base 10: 'three'")


def test_a_score_that_is_no_number_fails_alone():
    right, wrong = grades("rewards.none_for_words", TEXT, "3", "three")
    assert (right.score, right.failure) == (3.0, None)
    assert (wrong.failure, wrong.detail) == ("error", "returned None: every score must be a number")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("scores_by_index", r"returned \{0: 0\.25, 1: 0\.25\}: return a list"),
        ("set_of_scores", r"returned \{0\.0, 1\.0\}: return a list"),
        ("one_text", "returned '11': return a list"),
        ("one_number", r"returned 1\.0"), ("too_few", "1 scores for 2"),
    ],
)  # fmt: skip
def test_scores_that_are_no_list_of_as_many_numbers_end_the_run(path, says):
    with pytest.raises(RewardError, match=rf"reward\.path=rewards\.{path} on test:0 .*{says}"):
        grades(f"rewards.{path}", TEXT, "a", "b")


def fill(reward: Function) -> list[Grade]:
    """Prompts of eight completions, until all works or patience ends."""
    with closing(reward):
        return [grade for _ in range(6) for grade in reward([TEXT] * 8, ["a"] * 8)]


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        (Function(2, 0.005, 99, path="rewards.waits"), r"32 timeout.* longer than reward\.seconds=0\.005"),
        (Function(2, 9.0, 50, path="rewards.loads_a_model"), r"32 memory.* than reward\.megabytes=50 allow"),
        (Function(2, 9.0, 50, path="rewards.maps_a_model"), r"32 memory.* than reward\.megabytes=50 allow"),
        (Function(2, 9.0, 50, path="rewards.raises"), r"32 error.*raised KeyError: 'no such thing'.*outside of a run"),
    ],
)  # fmt: skip
def test_a_reward_that_never_works_ends_the_run_soon(reward, says):
    with pytest.raises(RewardError, match=rf"none of the first 32 completions could be graded \({says}"):
        fill(reward)


def test_a_reward_that_has_worked_once_may_fail_later():
    reward = Function(1, 5.0, 1000, path="rewards.number_of")
    with closing(reward):
        made = [reward([TEXT] * 16, texts) for texts in (["x"] * 15 + ["1"], ["x"] * 16, ["x"] * 16, ["x"] * 16)]
    assert sum(grade.failure == "error" for group in made for grade in group) == 63
