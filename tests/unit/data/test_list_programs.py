"""The small programs of the tiny policy: worked examples are right, splits are disjoint, and rows have hidden tests."""

import random
from contextlib import closing
from dataclasses import replace

import pytest
import yaml
from runs import ROOT

from dapo_lightning.data import list_programs
from dapo_lightning.data.list_programs import ListPrograms
from dapo_lightning.grading import sandbox
from dapo_lightning.reward.code import Code

OPTIONS = yaml.safe_load((ROOT / "conf/data/list_programs.yaml").read_text())
DATA = ListPrograms(**{key: value for key, value in OPTIONS.items() if key != "_target_"} | {"num_train": 300})


def test_a_question_its_program_and_its_result():
    steps = (("r", None), ("d", 2), ("a", 5), ("s", None), ("i", 7), ("t", 4), ("u", None))
    assert list_programs._question(steps) == "rd2a5si7t4u="
    assert list_programs._result(steps, [1, 9, 4, 3]) == [7, 1, 5, 9] * 2
    assert list_programs._expression(steps) == "(([7]+(sorted(((x[::-1])[2:])+[5])))[:4])*2"
    assert list_programs._lines(steps[:2]) == "def f(x):\n x=x[::-1]\n x=x[2:]\n return x"


@pytest.mark.skipif(sandbox.why_not() is not None, reason=str(sandbox.why_not()))
def test_every_way_of_writing_is_right():
    rng = random.Random(0)
    questions = [DATA._steps(rng, held_out=False) for _ in range(60)]
    prompts = [DATA._prompt(steps, "test", rng) for steps in questions]
    ways = [replace(DATA, direct=direct, idle=idle) for direct, idle in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0))]
    with closing(Code(2, 2.0, 128, fenced=False)) as reward:
        for way in ways:
            grades = reward(prompts, [way._program(steps, plain=False, rng=rng) for steps in questions])
            assert [grade.kind for grade in grades] == ["passed"] * 60
        assert all(grade.correct for grade in reward(prompts, [prompt.answer for prompt in prompts]))


def test_held_out_questions_are_never_trained_on_or_shown():
    held_out = {prompt.text for prompt in DATA.validation_prompts()}
    shown = {prompt.text for prompt in DATA.train_prompts()} | {e.prompt for e in DATA.worked_examples(300, 0)}
    assert len(held_out) > 150 and not held_out & shown
    assert DATA.train_prompts()[:3] == DATA.train_prompts()[:3]


@pytest.mark.parametrize(
    ("options", "says"), [({"max_steps": 8}, "1 to 7"), ({"direct": 0.8, "idle": 0.3}, "probabilities")]
)
def test_bad_numbers_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        replace(DATA, **options)
