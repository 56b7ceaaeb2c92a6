"""HumanEval through reward=code: canonical solutions pass, bodies without content and most mutants fail."""

from contextlib import closing

import pytest
from mutants import mutant

from dapo_lightning.data import DataError
from dapo_lightning.data.human_eval import HumanEval
from dapo_lightning.grading import sandbox
from dapo_lightning.reward.code import Code

pytestmark = pytest.mark.skipif(sandbox.why_not() is not None, reason=str(sandbox.why_not()))

PROMPTS = HumanEval().validation_prompts()


@pytest.fixture(scope="module")
def reward():
    with closing(Code(2, 2.0, 512, fenced=False)) as reward:
        reward.start()
        assert reward.usable(PROMPTS) == PROMPTS
        yield reward


def kinds(reward, completions):
    return [grade.kind for grade in reward(PROMPTS, completions)]


def test_all_canonical_solutions_pass(reward):
    assert kinds(reward, [prompt.answer for prompt in PROMPTS]) == ["passed"] * 164


@pytest.mark.parametrize(("body", "kind"), [("", "no_code"), ("    pass\n", "wrong")])
def test_bodies_without_content_fail(reward, body, kind):
    assert kinds(reward, [body] * 164) == [kind] * 164


def test_most_solutions_with_one_operator_or_constant_changed_fail(reward):
    """The others are equal to the canonical solution on the inputs of the tests, or everywhere."""
    sources = [(prompt.text + prompt.answer, prompt.columns["entry_point"]) for prompt in PROMPTS]
    changed = [mutant(source, name, seed=0) for source, name in sources]
    found = kinds(reward, [text or "" for text in changed])
    mutants = [kind for kind, text in zip(found, changed, strict=True) if text is not None]
    assert len(mutants) == 156 and sum(kind == "passed" for kind in mutants) <= 0.1 * len(mutants)


def test_they_are_held_out():
    assert len(PROMPTS) == 164
    with pytest.raises(DataError, match=r"can only be evaluated"):
        HumanEval().train_prompts()
