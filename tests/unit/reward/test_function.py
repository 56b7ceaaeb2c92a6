"""Rewards as people write them: for TRL or for this kit, as functions, classes or instances, in the current folder."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf
from runs import ROOT

from dapo_lightning.reward import RewardError
from dapo_lightning.reward.function import Function
from dapo_lightning.reward.math import Math
from dapo_lightning.reward.reasoning_gym import ReasoningGym
from dapo_lightning.types import Prompt

TEXT = Prompt("7+5=", "12", "test:0", {"level": 2})
CHAT = Prompt("7+5=", "12", "test:1", {"level": 2}, ({"role": "user", "content": "7+5="},))


def scores(path: str, prompt: Prompt, *completions: str) -> list[float]:
    reward = Function(1, 5.0, 1000, path=path, answer_column="solution")
    try:
        return [grade.score for grade in reward([prompt] * len(completions), completions)]
    finally:
        reward.close()


@pytest.mark.parametrize("prompt", [TEXT, CHAT], ids=["text", "chat"])
def test_a_reward_written_for_trl_works_as_it_is(prompt):
    assert scores("rewards.ends_on_solution", prompt, "so 12", "so 13") == [1.0, 0.0]


def test_completions_of_chats_are_messages_unless_the_function_reads_text():
    assert scores("rewards.last_message_is_from_the_assistant", CHAT, "a", "b") == [1.0, 1.0]
    assert scores("rewards.takes_two", CHAT, "12", "13") == [1.0, 0.0]  # names `answers`, which TRL does not know
    assert scores("rewards.says_it_reads_text", CHAT, "12", "x") == [1.0, 0.0]  # says so in its annotation
    with pytest.raises(RewardError, match=r"no attribute 'strip'.*lists of messages.*completion\[0\].*list\[str\]"):
        scores("rewards.expects_text", CHAT, "12")
    assert scores("rewards.expects_text", TEXT, "12") == [2.0]


@pytest.mark.parametrize(
    ("path", "expected"), [("takes_two", 0.0), ("says_it_reads_text", 1.0), ("Judge", 4.0), ("triple", 6.0),
                           ("AsyncJudge", 4.0)],
)  # fmt: skip
def test_functions_without_kwargs_classes_and_instances(path, expected):
    assert scores(f"rewards.{path}", TEXT, "34") == [expected]


def test_a_parameter_that_no_column_provides_is_named_with_the_remedy():
    reward = Function(1, 5.0, 1000, path="rewards.ends_on_solution")
    says = r"missing a required.* 'solution'\. .*: answer, answers, completions, level, prompts; data\.answer_column"
    with pytest.raises(RewardError, match=rf"reward\.path=rewards\.ends_on_solution on test:0 .*{says}"):
        reward([TEXT], ["12"])
    reward.close()
    with pytest.raises(ValueError, match=r"^reward\.path=rewards\.NeedsScale: the class needs arguments.*instance"):
        Function(1, 5.0, 1000, path="rewards.NeedsScale").start()


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
        ("latex2sympy2_extended", Math(1, 5.0, 500), "math"),
        ("math_verify", Math(1, 5.0, 500), "math"),
        ("reasoning_gym", ReasoningGym(1, 5.0, 500, task="chain_sum", pattern=None), "reasoning-gym"),
    ],
)
def test_a_missing_extra_is_named_with_its_installation(package, reward, extra, tmp_path, monkeypatch):
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('not installed', name={package!r})")
    monkeypatch.syspath_prepend(tmp_path)  # children search where this process does
    says = rf'^reward=\w+ needs the package {package}: pip install "dapo-lightning\[{extra}\]"'
    with pytest.raises(ValueError, match=says):
        reward.start()
